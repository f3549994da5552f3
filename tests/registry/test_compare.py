"""The comparison and its gate: what is worse, what is the same, what is missing, and what the exit code says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longatlas import LongAtlasError
from longatlas.compare import compare, load_side, parse_rules
from longatlas.compare.comparison import BETTER, MISSING, NEW, SAME, WORSE
from longatlas.compare.gate import judge
from longatlas.compare.sides import Side
from longatlas.harness.demo import METHODS, demo_plan
from longatlas.harness.plan import load_plan

SHARED: dict[str, Any] = {
    "impl": "torch",
    "options": {},
    "measure": "speed",
    "phase": "prefill",
    "level": "decoder",
    "policy": "wall",
    "T": 512,
    "unit": "ms",
    "status": "ok",
    "reason": "",
    "device": "cpu",
    "dtype": "float32",
    "case": {"batch": 1, "heads": 8},
    "seed": 0,
    "threads": 2,
    "n": 9,
    "samples": [],
    "machine": "here",
    "versions": {},
    "source": "s",
    "seconds": 1.0,
    "created": 1.0,
}


def row(method: str, metric: str, value: float | None, spread: float | None = 0.01, **changes: Any) -> dict[str, Any]:
    known = value is not None and spread is not None
    made = {**SHARED, "method": method, "metric": metric, "value": value, "cell": f"{method}-{changes}", **changes}
    low, high = (value * (1 - spread), value * (1 + spread)) if known else (None, None)  # type: ignore[operator]
    return {"low": low, "high": high, **made}


def side(*rows: dict[str, Any], name: str = "side") -> Side:
    return Side(name, pd.DataFrame(list(rows)))


def verdicts(before: Side, after: Side) -> dict[tuple[str, str], str]:
    return {(line.method, line.metric): line.verdict for line in compare(before, after).lines}


def judged(before: Side, after: Side, rules: str, **options: bool) -> list[tuple[str, str]]:
    found = judge(compare(before, after), parse_rules(rules), **options)
    return [(line.metric, reason) for line, reason in found.failures]


BYTES: dict[str, Any] = {"measure": "memory", "unit": "bytes", "policy": "", "spread": None}
SCORE: dict[str, Any] = {"measure": "quality", "phase": "mqar", "unit": "share", "level": "", "policy": ""}


def test_better_worse_and_the_same() -> None:
    before = side(
        row("a", "prefill_ms", 10.0),
        row("b", "prefill_ms", 10.0),
        row("c", "prefill_ms", 10.0),
        row("a", "peak_bytes", 100.0, **BYTES),
        row("b", "peak_bytes", 100.0, **BYTES),
        row("a", "accuracy", 0.9, **SCORE),
        row("b", "accuracy", 0.9, **SCORE),
    )
    after = side(
        row("a", "prefill_ms", 12.0),
        row("b", "prefill_ms", 8.0),
        row("c", "prefill_ms", 10.1),
        row("a", "peak_bytes", 101.0, **BYTES),
        row("b", "peak_bytes", 100.0, **BYTES),
        row("a", "accuracy", 0.8, **SCORE),
        row("b", "accuracy", 0.95, **SCORE),
    )
    assert verdicts(before, after) == {
        ("a", "prefill_ms"): WORSE,
        ("b", "prefill_ms"): BETTER,
        ("c", "prefill_ms"): SAME,
        ("a", "peak_bytes"): WORSE,
        ("b", "peak_bytes"): SAME,
        ("a", "accuracy"): WORSE,
        ("b", "accuracy"): BETTER,
    }


def test_missing_new_and_statuses() -> None:
    oom = {"status": "oom", "reason": "no"}
    before = side(
        row("a", "prefill_ms", 10.0),
        row("b", "prefill_ms", 10.0),
        row("c", "prefill_ms", 10.0),
        row("d", "", None, **oom),
        row("e", "", None, **oom),
    )
    after = side(
        row("a", "prefill_ms", 10.0),
        row("c", "", None, **oom),
        row("d", "prefill_ms", 10.0),
        row("e", "", None, **oom),
        row("f", "prefill_ms", 10.0),
    )
    assert verdicts(before, after) == {
        ("a", "prefill_ms"): SAME,
        ("b", ""): MISSING,
        ("c", ""): WORSE,
        ("d", ""): BETTER,
        ("e", ""): SAME,
        ("f", ""): NEW,
    }
    assert judged(before, after, "median:50%") == [("", "missing"), ("", "ok -> oom")]
    assert judged(before, after, "median:50%", allow_missing=True) == [("", "ok -> oom")]


def test_a_metric_that_is_gone_is_missing_though_its_cell_is_there() -> None:
    before = side(row("a", "prefill_ms", 10.0, cell="x"), row("a", "tokens_per_s", 5.0, cell="x"))
    after = side(row("a", "prefill_ms", 10.0, cell="x"))
    assert verdicts(before, after) == {("a", "prefill_ms"): SAME, ("a", "tokens_per_s"): MISSING}
    assert judged(before, after, "median:5%") == [("tokens_per_s", "missing")]


@pytest.mark.parametrize(
    ("rules", "fires"),
    [
        ("median:5%", ["median:5%"]),
        ("median:25%", []),
        ("prefill_ms:1ms", ["prefill_ms:1ms"]),
        ("*_ms:10%,median:5%", ["*_ms:10%", "median:5%"]),
        ("prefill_ms:2.5", []),
    ],
)
def test_a_rule_fires_beyond_its_threshold(rules: str, fires: list[str]) -> None:
    before, after = side(row("a", "prefill_ms", 10.0)), side(row("a", "prefill_ms", 12.0))
    assert [reason for _, reason in judged(before, after, rules)] == fires
    assert judged(after, before, rules) == []


def test_a_difference_inside_the_intervals_never_fires() -> None:
    before, after = side(row("a", "prefill_ms", 10.0, 0.2)), side(row("a", "prefill_ms", 12.0, 0.2))
    assert judged(before, after, "median:1%") == []


def test_points_are_hundredths_and_a_fall_is_what_they_forbid() -> None:
    before, after = side(row("a", "accuracy", 0.90, 0.001, **SCORE)), side(row("a", "accuracy", 0.88, 0.001, **SCORE))
    assert judged(before, after, "accuracy:-1pt") == [("accuracy", "accuracy:-1pt")]
    assert judged(before, after, "accuracy:-3pt") == []
    assert judged(after, before, "accuracy:-1pt") == []


def test_a_metric_whose_direction_is_unknown_needs_a_sign() -> None:
    before, after = side(row("a", "colour", 1.0)), side(row("a", "colour", 3.0))
    with pytest.raises(LongAtlasError, match="it is not known which way 'colour' is better; say which change is worse"):
        judged(before, after, "colour:1")
    assert judged(before, after, "colour:+1") == [("colour", "colour:+1")]
    assert judged(before, after, "colour:-1") == []


def test_a_gate_that_checks_nothing_does_not_pass() -> None:
    before = side(row("a", "prefill_ms", 10.0))
    with pytest.raises(LongAtlasError, match="rule 'peek_bytes:2%' matches no metric of the comparison; there"):
        judged(before, before, "median:5%,peek_bytes:2%")


@pytest.mark.parametrize("rules", ["", "median", "median:", "median:fast", "median:5 %", "median:5%;peak_bytes:2%"])
def test_rules_that_cannot_be_read(rules: str) -> None:
    with pytest.raises(LongAtlasError, match=r"cannot be read; expected metric:threshold|names no rule"):
        parse_rules(rules)


def machine(name: str, scale: float, yarn: float, **changes: Any) -> Side:
    shared = {"machine": name, "threads": 4, **changes}
    return side(row("vanilla", "prefill_ms", scale, **shared), row("yarn", "prefill_ms", scale * yarn, **shared))


def test_between_machines_only_ratios_to_vanilla_are_compared() -> None:
    found = compare(machine("here", 10.0, 0.5), machine("there", 40.0, 0.5, threads=9))
    (line,) = found.lines
    assert found.across
    assert (line.method, line.baseline, line.candidate, line.unit, line.verdict) == (
        "yarn",
        0.5,
        0.5,
        "x vanilla",
        SAME,
    )
    (line,) = compare(machine("here", 10.0, 0.5), machine("there", 40.0, 0.7)).lines
    assert line.verdict == WORSE
    (line,) = compare(machine("here", 10.0, 0.5), machine("there", 40.0, 0.51)).lines
    assert line.verdict == SAME, "the intervals of both values widen the ratio's"


def test_nothing_in_common_is_an_error() -> None:
    with pytest.raises(LongAtlasError, match="have no measurement in common; measure the same methods"):
        compare(side(row("a", "prefill_ms", 1.0)), side(row("a", "prefill_ms", 1.0, T=1024)))


def test_only_named_methods_are_compared() -> None:
    both = side(row("a", "prefill_ms", 1.0), row("b:size=2", "prefill_ms", 1.0), row("b+a", "prefill_ms", 1.0))
    assert {line.method for line in compare(both, both, ["b"]).lines} == {"b:size=2"}
    assert {line.method for line in compare(both, both, ["b+a", "a"]).lines} == {"b+a", "a"}


values = st.floats(0.1, 1e6, allow_nan=False)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(values, st.floats(0.0, 0.5)), min_size=1, max_size=6), st.floats(1.2, 5.0))
def test_a_side_is_never_worse_than_itself_and_swapping_mirrors(
    drawn: list[tuple[float, float]], factor: float
) -> None:
    one = side(*(row(f"m{i}", "prefill_ms", value, spread) for i, (value, spread) in enumerate(drawn)))
    assert judged(one, one, "median:0%,*_ms:0") == []
    other = side(*(row(f"m{i}", "prefill_ms", value * factor, spread) for i, (value, spread) in enumerate(drawn)))
    mirror = {BETTER: WORSE, WORSE: BETTER, SAME: SAME}
    there, back = verdicts(one, other), verdicts(other, one)
    assert {key: mirror[word] for key, word in there.items()} == back
    tight = [i for i, (_, spread) in enumerate(drawn) if (1 + spread) < factor * (1 - spread)]
    assert [place for place, (_, word) in enumerate(there.items()) if word == WORSE] == tight


# The command


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    names = []
    for name, factor in (("before", 1.0), ("after", 2.0)):
        rows = [row("vanilla", "prefill_ms", 10.0), row("yarn", "prefill_ms", 5.0 * factor)]
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps([{**r, "cell": f"{name}{i}"} for i, r in enumerate(rows)]))
        names.append(str(file))
    return names[0], names[1]


def test_exit_codes(files: tuple[str, str], command: Callable[..., Any]) -> None:
    before, after = files
    same = command("compare", before, before, "--fail", "median:5%")
    assert (same.returncode, same.stderr) == (0, "")
    assert "passed: nothing is worse than the rules allow" in same.stdout
    worse = command("compare", before, after, "--fail", "median:5%")
    assert worse.returncode == 1
    assert "yarn prefill T=512 prefill_ms: +100.0% (median:5%)" in worse.stdout
    assert command("compare", after, before, "--fail", "median:5%").returncode == 0
    assert command("compare", before, after).returncode == 0, "without rules it only tells"
    assert command("compare", "--baseline", before, after, "--fail", "median:200%").returncode == 0
    for bad in ([], [before, "none.json"], [before, after, "--fail", "median"], [before, after, before]):
        done = command("compare", *bad)
        assert (done.returncode, done.stdout) == (2, ""), bad
        assert done.stderr.startswith("Error: ")
        assert "Traceback" not in done.stderr


def test_json_says_what_fails(files: tuple[str, str], command: Callable[..., Any]) -> None:
    done = command("compare", *files, "--fail", "median:5%", "--json")
    assert done.returncode == 1
    lines = {line["method"]: line for line in json.loads(done.stdout)}
    assert lines["yarn"]["fails"] == ["median:5%"]
    assert lines["yarn"]["change"] == pytest.approx(1.0)
    assert (lines["vanilla"]["verdict"], lines["vanilla"]["fails"]) == ("same", [])


def test_a_store_is_a_side(files: tuple[str, str], tmp_path: Path, command: Callable[..., Any]) -> None:
    store = str(tmp_path / "store.sqlite")
    assert command("results", "import", files[1], "--store", store).returncode == 0
    done = command("compare", files[0], "--store", store, "--fail", "median:5%")
    assert done.returncode == 1
    assert load_side(store).rows["method"].tolist() == ["vanilla", "yarn"]


# The shipped baseline


def elsewhere(shipped: Side, factor: float) -> Side:
    """The shipped rows as another machine would have them, all times and bytes by a factor."""
    rows = shipped.rows[shipped.rows["measure"] == "speed"].assign(machine="another", threads=7)
    return Side("here", rows.assign(**{name: rows[name] * factor for name in ("value", "low", "high")}))


def test_the_shipped_baseline_is_compared_by_ratios_to_vanilla() -> None:
    shipped = load_side("shipped")
    assert shipped.is_shipped
    assert set(demo_plan().methods[: len(METHODS)]) <= set(shipped.rows["method"])
    found = compare(shipped, elsewhere(shipped, 3.0))
    assert found.across
    assert {line.verdict for line in found.lines} == {SAME}
    assert "vanilla" not in {line.method for line in found.lines if line.metric}
    assert {line.unit for line in found.lines if line.metric} == {"x vanilla"}
    only_one_length = elsewhere(shipped, 1.0)
    few = Side("here", only_one_length.rows[only_one_length.rows["T"] == 512])
    assert {line.verdict for line in compare(shipped, few).lines} == {SAME}, "what was not measured is not asked for"


def test_the_baselines_plan_is_that_of_the_demo() -> None:
    plan = load_plan(Path(__file__).parents[2] / "docs" / "baseline.yaml")
    demo = demo_plan()
    keys = ("layers", "heads", "head_size", "lengths", "batch", "budget")
    assert plan.methods == demo.methods[: len(plan.methods)]
    assert [getattr(plan, key) for key in keys] == [getattr(demo, key) for key in keys]
