"""The tables of a run: only numbers of one setting stand side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from longatlas.harness.cells import Cell, expand
from longatlas.harness.plan import Plan
from longatlas.harness.summary import Table, summarise
from longatlas.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store.sqlite"))


def plan(**changes: Any) -> Plan:
    values: dict[str, Any] = {"methods": ("vanilla", "alibi"), "measure": ("speed",), "phases": ("train",)}
    return Plan(**{**values, "lengths": (8, 16), **changes})


def fill(store: Store, wanted: Plan, milliseconds: dict[tuple[str, int], float]) -> None:
    for cell in expand(wanted):
        value = milliseconds.get((cell.method, cell.T))
        row = {"metric": "train_ms", "unit": "ms", "value": value, "low": value, "high": value}
        store.save(cell.record([row if value else {"status": "oom", "reason": "too big"}], 1.0))


def tables(store: Store) -> list[Table]:
    return [made for made in summarise(store.rows()) if not made.title.startswith("growth")]


def test_growth_stands_beside_the_claim(store: Store) -> None:
    times = {("vanilla", T): 1e-6 * T**2 for T in (512, 1024, 2048)} | {("alibi", 512): 2.0}
    fill(store, plan(lengths=(512, 1024, 2048)), times)
    (made,) = [table for table in summarise(store.rows()) if table.title.startswith("growth")]
    assert made.columns == ["method", "time claimed", "state claimed", "prefill time", "train time", "state"]
    assert made.lines == [["vanilla", "T^2", "T", "–", "2.00 ± 0.00", "–"]]


def test_times_with_their_ratio_to_the_baseline(store: Store) -> None:
    fill(store, plan(), {("vanilla", 8): 4.0, ("vanilla", 16): 16.0, ("alibi", 8): 8.0, ("alibi", 16): 4.0})
    (table,) = tables(store)
    assert table.title == "train: ms (times as fast as vanilla)"
    assert table.columns == ["method", "T=8", "T=16"]
    assert table.lines == [["vanilla", "4 (1.00x)", "16 (1.00x)"], ["alibi", "8 (0.50x)", "4 (4.00x)"]]


def test_without_the_baseline_no_ratio_is_promised(store: Store) -> None:
    fill(store, plan(methods=("alibi",)), {("alibi", 8): 8.0, ("alibi", 16): 4.0})
    (table,) = tables(store)
    assert (table.title, table.lines) == ("train: ms", [["alibi", "8", "4"]])


def test_settings_are_not_mixed(store: Store) -> None:
    times = {("vanilla", 8): 4.0, ("alibi", 8): 8.0, ("vanilla", 16): 1.0, ("alibi", 16): 1.0}
    fill(store, plan(layers=1), times)
    fill(store, plan(layers=3, methods=("alibi",)), {("alibi", 8): 80.0, ("alibi", 16): 90.0})
    one, three = tables(store)
    assert one.title.endswith(" · layers 1")
    assert three.title.endswith(" · layers 3")
    assert three.lines == [["alibi", "80", "90"]], "no ratio to a baseline of another setting"
    assert one.lines[1] == ["alibi", "8 (0.50x)", "1 (1.00x)"]


def test_impls_of_a_method_have_their_own_lines(store: Store) -> None:
    for impl, value in (("torch", 4.0), ("reference", 8.0)):
        fill(store, plan(impl=impl, lengths=(8,)), {("vanilla", 8): value, ("alibi", 8): value})
    (table,) = tables(store)
    assert [line[0] for line in table.lines] == [
        *("vanilla (torch)", "alibi (torch)", "vanilla (reference)", "alibi (reference)")
    ]


def test_failures_of_one_kind_share_a_line(store: Store) -> None:
    fill(store, plan(), {("vanilla", 8): 4.0, ("vanilla", 16): 4.0})
    table = tables(store)[-1]
    assert table.title == "not measured"
    assert table.lines == [["alibi", "speed train", "8, 16", "oom", "too big"]]


def test_scores_with_and_without_interval(store: Store) -> None:
    cells: list[Cell] = expand(plan(measure=("quality",), tasks=("mqar",), preset="smoke"))
    store.save(cells[0].record([{"metric": "accuracy", "T": 16, "value": 0.5, "low": 0.4, "high": 0.6}], 1.0))
    store.save(cells[1].record([{"metric": "accuracy", "T": 16, "value": 0.25}], 1.0))
    (table,) = tables(store)
    assert table.lines == [["vanilla", "0.500 ± 0.100"], ["alibi", "0.250"]]


def test_what_tells_of_training_stands_in_one_table(store: Store) -> None:
    told = {"accuracy": "", "best_lr": "", "tune_steps": "", "calibrate_seconds": "yarn:factor=8.0", "loss_balance": ""}
    rows = [{"metric": name, "value": 0.5, "T": 8, "reason": reason} for name, reason in told.items()]
    for cell in expand(plan(methods=("vanilla", "yarn"), measure=("quality",), tasks=("mqar",), preset="smoke")):
        store.save(cell.record(rows if cell.method == "yarn" else rows[:2], 1.0))
    accuracy, training = tables(store)
    assert accuracy.title.startswith("mqar: accuracy")
    assert training.columns == ["method", "best lr", "tune steps", "calibrate seconds", "loss balance"]
    assert training.lines == [
        ["vanilla", "0.5", "–", "–", "–"],
        ["yarn", "0.5", "0.5", "0.5 yarn:factor=8.0", "0.5"],
    ]
