"""Cells: what a plan is taken apart into, and what their keys are made of."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longatlas.harness import cells
from longatlas.harness.cells import expand
from longatlas.harness.plan import Plan

PLAN = Plan(methods=("vanilla", "alibi"), lengths=(16, 8), tasks=("mqar", "language_model"), preset="smoke")


def keys(plan: Plan) -> set[str]:
    return {cell.key for cell in expand(plan)}


def test_one_cell_for_each_measurement_short_ones_first() -> None:
    found = expand(PLAN)
    assert len(found) == len({cell.key for cell in found}) == 2 * (2 * 2 * 3) + 2 * 2
    speed = [(c.T, c.phase, c.method) for c in found if c.measure == "speed"]
    assert speed[:3] == [(8, "train", "vanilla"), (8, "train", "alibi"), (8, "prefill", "vanilla")]
    assert [length for length, _, _ in speed] == sorted(length for length, _, _ in speed)
    assert [c.measure for c in found] == ["speed"] * 12 + ["memory"] * 12 + ["quality"] * 4
    assert {(c.phase, c.T) for c in found if c.measure == "quality"} == {("mqar", 0), ("language_model", 0)}


def test_keys_are_the_same_in_another_process() -> None:
    script = (
        "import json; from longatlas.harness.plan import Plan; from longatlas.harness.cells import expand\n"
        f"print(json.dumps([c.key for c in expand(Plan(**{PLAN.as_dict()!r}))]))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == [cell.key for cell in expand(PLAN)]


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "float64"},
        {"impl": "reference"},
        {"batch": 2},
        {"layers": 1},
        {"heads": 2},
        {"head_size": 16},
        {"kv_heads": 2},
        {"threads": 7},
        {"seed": 5},
        {"memory_gib": 3.0},
        {"methods": ("sliding_window:window=8", "sliding_window:window=9")},
    ],
)
def test_what_changes_a_number_changes_every_key(change: dict[str, Any]) -> None:
    plan = PLAN.with_values({"measure": ("speed", "memory")})
    assert not keys(plan) & keys(plan.with_values(change))


def test_several_impls_make_a_cell_each() -> None:
    plan = Plan(methods=("vanilla", "flash_attention"), lengths=(8,), measure=("speed",), phases=("prefill",))
    found = expand(plan.with_values({"impl": "auto,torch,reference,peer:flex"}))
    told = [(cell.method, cell.impl) for cell in found]
    assert told == [
        *(("vanilla", impl) for impl in ("torch", "reference")),
        *(("flash_attention", impl) for impl in ("torch", "reference", "peer:flex")),
    ]
    assert keys(plan) == {cell.key for cell in found if cell.impl == "torch"}
    assert len({cell.series for cell in found}) == len({cell.label for cell in found}) == 5


def test_as_many_heads_of_keys_as_of_queries_go_without_saying() -> None:
    assert keys(PLAN) == keys(PLAN.with_values({"kv_heads": PLAN.heads}))
    assert {cell.case.get("kv_heads") for cell in expand(PLAN.with_values({"kv_heads": 2}))} == {2, None}


def test_what_does_not_matter_changes_none() -> None:
    assert keys(PLAN) == keys(PLAN.with_values({"timeout": 5.0}))
    assert keys(PLAN) == keys(PLAN.with_values({"lengths": (8, 16), "methods": ("alibi", "vanilla")}))
    speed = PLAN.with_values({"measure": ("speed",)})
    assert keys(speed) == keys(speed.with_values({"corpus": "/nowhere", "preset": "demo"}))
    memory = PLAN.with_values({"measure": ("memory",)})
    assert keys(memory) == keys(memory.with_values({"budget": 9.0}))
    quality = PLAN.with_values({"measure": ("quality",)})
    assert keys(quality) == keys(quality.with_values({"heads": 1, "lengths": (512,)}))


def test_more_lengths_and_methods_add_cells_only() -> None:
    assert keys(PLAN) < keys(PLAN.with_values({"lengths": (8, 16, 32)}))
    assert keys(PLAN) < keys(PLAN.with_values({"methods": ("vanilla", "alibi", "yarn")}))


def test_corpus_counts_by_content(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(b"a line of text\n" * 4000)
    plan = PLAN.with_values({"measure": ("quality",), "corpus": str(text)})
    before = {cell.phase: cell.key for cell in expand(plan)}
    text.write_bytes(b"another line\n" * 4000)
    cells.corpus_digest.__globals__["_load"].cache_clear()
    after = {cell.phase: cell.key for cell in expand(plan)}
    assert before["mqar"] == after["mqar"]
    assert before["language_model"] != after["language_model"]


def test_a_changed_source_file_changes_its_method_alone(planted: Callable[..., str], tmp_path: Path) -> None:
    plan = Plan(methods=(planted("planted_one"), planted("planted_two")), measure=("speed",), lengths=(8,))
    before = {(c.method, c.phase): c.key for c in expand(plan)}
    file = tmp_path / "planted/planted_one.py"
    file.write_text(file.read_text() + "\n# changed\n")
    changed = {c.method for c in expand(plan) if c.key != before[c.method, c.phase]}
    assert changed == {"planted_one"}


def test_the_engine_is_part_of_every_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys(PLAN)
    for name in cells.ENGINE:
        assert (Path(cells.__file__).parents[1] / name).exists(), name
    cells.environment_digest.cache_clear()
    monkeypatch.setattr(cells, "ENGINE", cells.ENGINE[:-1])
    assert not before & keys(PLAN)
    cells.environment_digest.cache_clear()
