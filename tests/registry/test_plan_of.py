"""The plan behind rows: its cells are theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from longatlas import LongAtlasError
from longatlas.harness.cells import expand
from longatlas.harness.plan import Plan
from longatlas.harness.plan_of import plan_of
from longatlas.store import Store, queries
from longatlas.store.schema import CELLS

PLAN = Plan(methods=("vanilla", "alibi"), measure=("speed", "memory"), phases=("prefill",), lengths=(64, 128))


def made(store: Store, plan: Plan) -> Plan:
    """The plan of the rows that a plan's cells gave."""
    for cell in expand(plan):
        store.save(cell.record([{"metric": "x", "value": 1.0}], 1.0))
    (setting,) = (row for _, row in queries.settings(store, plan.methods, plan.measure).iterrows())
    rows = queries.rows_of(store, plan.methods, plan.measure, setting["setting"], setting["level"])
    return plan_of(plan.methods, setting, rows)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"impl": "reference"},
        {"seed": 3},
        {"budget": 0.6},
        {"device": "cuda", "policy": "gpu_hot", "measure": ("speed",)},
        {"threads": 1, "dtype": "float64", "heads": 2},
        {"levels": ("operation",)},
        {"measure": ("quality",), "tasks": ("mqar", "passkey"), "preset": "smoke", "seed": 5},
    ],
)
def test_its_cells_are_those_of_the_rows(tmp_path: Path, changes: dict[str, Any]) -> None:
    plan = PLAN.with_values(changes)
    found = made(Store(str(tmp_path / "store.sqlite")), plan)
    assert {cell.key for cell in expand(found)} == {cell.key for cell in expand(plan)}


def test_what_no_plan_can_say_is_told(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store.sqlite"))
    made(store, PLAN.with_values({"methods": ("alibi",), "impl": "reference"}))
    with pytest.raises(LongAtlasError, match="plan: impl would have to be reference and torch"):
        made(store, PLAN)


@pytest.mark.parametrize("whole", [False, True])
def test_a_view_says_the_budget_of_its_rows(tmp_path: Path, whole: bool) -> None:
    store = Store(str(tmp_path / "store.sqlite"))
    plan = PLAN.with_values({"budget": 0.6})
    made(store, plan)
    (setting,) = (row for _, row in queries.settings(store, plan.methods, plan.measure).iterrows())
    chosen = (plan.methods, plan.measure, setting["setting"], setting["level"])
    found = plan_of(plan.methods, setting, queries.rows_of(store, *chosen, whole=whole))
    cells = expand(found)
    assert len(store.finished(cell.key for cell in cells)) == len(cells) == 8
    command = found.to_command()
    assert command[command.index("--budget") + 1] == "0.6"
    assert len(store.finished(cell.key for cell in expand(plan.with_values({"budget": 2.0})))) == 4, "memory alone"


def test_of_several_budgets_the_newest_counts_and_rows_without_one_say_nothing(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store.sqlite"))
    made(store, PLAN.with_values({"budget": 0.6, "lengths": (64,)}))
    assert made(store, PLAN.with_values({"budget": 0.9, "lengths": (128,)})).budget == 0.9
    with store.writing() as connection:
        connection.execute(sa.update(CELLS).values(versions="{}"))
    (setting,) = (row for _, row in queries.settings(store, PLAN.methods, PLAN.measure).iterrows())
    rows = queries.rows_of(store, PLAN.methods, PLAN.measure, setting["setting"], setting["level"])
    assert plan_of(PLAN.methods, setting, rows).budget == PLAN.budget
