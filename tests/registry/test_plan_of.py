"""The plan behind rows: its cells are theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from longatlas import LongAtlasError
from longatlas.harness.cells import expand
from longatlas.harness.plan import Plan
from longatlas.harness.plan_of import plan_of
from longatlas.store import Store, queries

PLAN = Plan(methods=("vanilla", "alibi"), measure=("speed", "memory"), phases=("prefill",), lengths=(64, 128))


def made(store: Store, plan: Plan) -> Plan:
    """The plan of the rows that a plan's cells gave."""
    for cell in expand(plan):
        store.save(cell, [{"metric": "x", "value": 1.0}], 1.0)
    (setting,) = (row for _, row in queries.settings(store, plan.methods, plan.measure).iterrows())
    rows = queries.rows_of(store, plan.methods, plan.measure, setting["setting"], setting["level"])
    return plan_of(plan.methods, setting, rows)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"impl": "reference"},
        {"seed": 3},
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
