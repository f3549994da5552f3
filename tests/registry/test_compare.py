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
from longatlas.store import Store

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
    "case": {"batch": 1, "heads": 8, "head_size": 64},
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


def test_a_pattern_passes_over_what_it_cannot_judge() -> None:
    before = side(row("a", "prefill_ms", 10.0), row("a", "colour", 1.0), row("a", "peak_bytes", 5.0, **BYTES))
    after = side(row("a", "prefill_ms", 20.0), row("a", "colour", 3.0), row("a", "peak_bytes", 9.0, **BYTES))
    assert judged(before, after, "*:1ms") == [("prefill_ms", "*:1ms")]
    assert judged(before, after, "*:5%") == [("prefill_ms", "*:5%"), ("peak_bytes", "*:5%")]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("peak_bytes:1ms", "'peak_bytes' is measured in bytes, not in ms; peak_bytes:5% works for any"),
        ("prefill_ms:1pt", "'prefill_ms' is measured in ms, not in pt"),
        ("accuracy:+1pt", "a fall of 'accuracy' is worse; leave the sign out"),
        ("median:-5%", "a rise of 'prefill_ms' is worse; leave the sign out"),
        ("colour:5%", "it is not known which way 'colour' is better"),
    ],
)
def test_a_rule_that_can_judge_nothing_is_refused_though_nothing_differs(rule: str, words: str) -> None:
    speed, memory = row("a", "prefill_ms", 10.0), row("a", "peak_bytes", 5.0, **BYTES)
    both = side(speed, memory, row("a", "accuracy", 0.5, **SCORE), row("a", "colour", 1.0))
    with pytest.raises(LongAtlasError, match=words):
        judged(both, both, rule)


def test_a_rule_about_cells_that_all_failed_is_no_usage_error() -> None:
    before = side(row("a", "prefill_ms", 10.0), row("a", "peak_bytes", 5.0, **BYTES))
    crashed = row("a", "", None, status="crash", reason="no")
    assert judged(before, side(crashed, row("a", "peak_bytes", 5.0, **BYTES)), "median:5%") == [("", "ok -> crash")]
    assert judged(before, side(row("a", "peak_bytes", 5.0, **BYTES)), "median:5%") == [("", "missing")]


def test_shares_of_a_peak_follow_from_the_time_and_are_not_compared() -> None:
    share = {"unit": "share", "spread": None}
    before = side(row("a", "prefill_ms", 10.0), row("a", "bandwidth_share", 0.5, **share))
    after = side(row("a", "prefill_ms", 10.1), row("a", "bandwidth_share", 0.4, **share))
    assert verdicts(before, after) == {("a", "prefill_ms"): SAME}


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


def test_without_vanilla_machines_cannot_be_compared() -> None:
    alone = side(row("yarn", "prefill_ms", 5.0, machine="there"), name="theirs")
    with pytest.raises(LongAtlasError, match="ratios to vanilla are compared, and theirs has no vanilla here"):
        compare(machine("here", 10.0, 0.5), alone)


def test_vanilla_is_the_base_though_only_others_are_chosen() -> None:
    (line,) = compare(machine("here", 10.0, 0.5), machine("there", 40.0, 0.5), ["yarn"]).lines
    assert (line.method, line.verdict) == ("yarn", SAME)


def test_a_machine_that_only_one_side_has_is_left_out() -> None:
    both = [row("a", "prefill_ms", 10.0, cell="1"), row("a", "prefill_ms", 90.0, cell="2", machine="elsewhere")]
    found = compare(side(*both), side(both[0]))
    assert ([line.verdict for line in found.lines], found.left_out) == ([SAME], 1)


def test_the_shipped_baseline_is_held_against_the_settings_that_were_measured() -> None:
    rows = [row(m, "prefill_ms", 10.0, T=T) for m in ("vanilla", "yarn", "alibi") for T in (512, 2048)]
    shipped = Side("shipped", pd.DataFrame(rows), is_shipped=True)
    found = compare(shipped, side(*(row(m, "prefill_ms", 20.0) for m in ("vanilla", "yarn"))))
    assert found.across, "though the machine has the same name"
    assert {(line.method, line.T, line.verdict) for line in found.lines} == {
        ("yarn", 512, SAME),
        ("alibi", 512, MISSING),
    }
    assert found.left_out == 3


def test_where_the_corpus_lies_does_not_matter() -> None:
    lies = [{**SCORE, "case": {"corpus": place, "corpus_digest": "d", "preset": "quick"}} for place in ("/a", "/b")]
    before, after = (side(row("a", "accuracy", 0.9, **where)) for where in lies)
    assert verdicts(before, after) == {("a", "accuracy"): SAME}


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


def test_a_method_that_one_side_lacks_altogether_is_told_once(tmp_path: Path, command: Callable[..., Any]) -> None:
    methods = {"before": ("vanilla", "yarn"), "after": ("vanilla", "alibi")}
    for name, specs in methods.items():
        rows = [row(spec, "prefill_ms", 10.0, T=T) for spec in specs for T in (512, 1024)]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    files = [str(tmp_path / f"{name}.json") for name in methods]
    done = command("compare", *files)
    assert "missing altogether: yarn\nnew altogether: alibi\n6 compared: 2 same, 2 missing, 2 new.\n" in done.stdout
    assert "512" not in done.stdout
    assert command("compare", *files, "--all").stdout.count("yarn ") == 2
    assert command("compare", *files, "--fail", "median:5%").stdout.count("(missing)") == 2


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


def test_of_repeats_in_a_file_the_newest_counts(tmp_path: Path) -> None:
    rows = [row("a", "prefill_ms", 10.0, cell="1", created=2.0), row("a", "prefill_ms", 30.0, cell="2", created=1.0)]
    rows += [
        row("b", "prefill_ms", 10.0, cell="3"),
        row("b", "", None, cell="4", created=2.0, status="oom", reason="no"),
    ]
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(rows))
    assert [(r.cell, r.status) for r in load_side(str(file)).rows.itertuples()] == [("1", "ok"), ("4", "oom")]


def test_a_file_without_rows_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text("[]")
    with pytest.raises(LongAtlasError, match=r"rows.json' holds no rows; choose a file that"):
        load_side(str(file))
    store = tmp_path / "empty.sqlite"
    Store(str(store))
    with pytest.raises(LongAtlasError, match=r"empty.sqlite holds no results; `longatlas run` or"):
        load_side(str(store))
