"""Cells: what a plan is taken apart into, and what their keys are made of."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longatlas import identity
from longatlas.harness import cells
from longatlas.harness.cells import expand
from longatlas.harness.plan import Plan
from longatlas.identity import machine

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
    after = {cell.phase: cell.key for cell in expand(plan)}
    assert before["mqar"] == after["mqar"]
    assert before["language_model"] != after["language_model"]


def test_a_changed_source_file_changes_its_method_alone(planted: Callable[..., str], tmp_path: Path) -> None:
    plan = Plan(methods=(planted("planted_one"), planted("planted_two")), measure=("speed",), lengths=(8,))
    before = {(c.method, c.phase): c.key for c in expand(plan)}
    file = tmp_path / "planted/planted_one.py"
    file.write_text(file.read_text() + "\n# changed\n")
    assert not {c.method for c in expand(plan) if c.key != before[c.method, c.phase]}, "a comment counts for nothing"
    file.write_text(file.read_text() + "\nCHANGED = 1\n")
    changed = {c.method for c in expand(plan) if c.key != before[c.method, c.phase]}
    assert changed == {"planted_one"}


@pytest.mark.parametrize("fact", ["machine", "python", "torch", "libraries", "longatlas", "platform"])
def test_who_measures_is_part_of_every_key(fact: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys(PLAN)
    monkeypatch.setattr(cells, "facts", lambda device: {**identity.facts(device), fact: "another"})
    assert not before & keys(PLAN)


@pytest.mark.parametrize(("fact", "counts"), [("gpu", True), ("driver", True), ("triton", True), ("nothing", False)])
def test_the_gpu_counts_on_a_gpu_and_nowhere_else(fact: str, counts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = PLAN.with_values({"device": "cuda"})
    before, of_cpu = keys(gpu), keys(PLAN)
    monkeypatch.setattr(cells, "facts", lambda device: {**identity.facts(device), fact: "another"})
    assert bool(before & keys(gpu)) is not counts
    assert keys(PLAN) == of_cpu


def test_no_two_gpus_share_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()
    for gpu in ("NVIDIA H100 80GB HBM3", "NVIDIA H200"):
        identity.facts.cache_clear()
        monkeypatch.setattr(machine, "_nvidia", lambda gpu=gpu: ("570.1", [gpu]))
        names.add(identity.machine_name("cuda"))
        assert gpu in identity.machine_name("cuda")
        assert gpu not in identity.machine_name("cpu")
    identity.facts.cache_clear()
    assert len(names) == 2


def test_a_cell_is_stored_under_the_words_of_the_process_that_measured() -> None:
    cell = expand(PLAN)[0]
    told = {**identity.facts(), "torch": "9.9"}
    record = cell.record([{"metric": "train_ms", "value": 1.0}], 1.0, told)
    assert record.facts["versions"]["torch"] == "9.9"
    assert record.key != cell.key
    assert cell.record([{"status": "crash"}], 1.0).key == cell.key, "one that gave no answer was what was expected"
