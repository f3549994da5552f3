"""The plan behind what is shown: the one whose cells are these rows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from longatlas.harness.cells import resolve_policy
from longatlas.harness.plan import Plan, PlanError
from longatlas.measures import MEASURES, SPEED, shaped
from longatlas.words import PHASES

if TYPE_CHECKING:
    import pandas as pd

SHAPE = ("batch", "heads", "head_size", "kv_heads", "layers")


def plan_of(methods: Iterable[str], setting: Mapping[str, Any], rows: pd.DataFrame) -> Plan:
    """The plan that measures what rows hold, for these methods; of several seeds or budgets, the newest.

    setting  device, dtype, threads, level and case of the rows (longatlas.store.queries.settings)
    rows     flat rows of that setting, the oldest first; without any, the plan's defaults

    Timeout and memory limit stand in no row: they are the plan's defaults, and so is the budget of rows that were
    stored without it. Raises PlanError for what no plan can say: a method that is not installed, or methods measured
    in implementations that no single `impl` stands for.
    """
    case = setting["case"]
    found = {name: set(rows[name]) if len(rows) else set() for name in ("measure", "phase", "T")}
    values: dict[str, Any] = {
        "measure": tuple(name for name in MEASURES if name in found["measure"]),
        "device": setting["device"],
        "dtype": setting["dtype"],
        "threads": 0 if int(setting["threads"]) == os.cpu_count() else int(setting["threads"]),
    }
    if not set(values["measure"]) <= set(shaped()):
        values |= {"tasks": tuple(sorted(found["phase"])), "preset": case["preset"], "corpus": case.get("corpus", "")}
    else:
        values |= {name: int(case[name]) for name in SHAPE if name in case}
        values |= {"ranks": (int(case["ranks"]),)} if "ranks" in case else {}
        values |= {
            "phases": tuple(name for name in PHASES if name in found["phase"]),
            "lengths": tuple(sorted(int(length) for length in found["T"])),
            "levels": (setting["level"] or "decoder",),
        }
    plan = Plan(tuple(methods), **{key: value for key, value in values.items() if value not in ((), None)})
    if not len(rows):
        return plan
    of_rows = {"seed": int(rows["seed"].iloc[-1]), "policy": _policy(rows, plan), "budget": _budget(rows, plan)}
    plan = plan.with_values(of_rows)
    return plan.with_values({"impl": _impl(rows, plan)})


def _policy(rows: pd.DataFrame, plan: Plan) -> str:
    found = set(rows.loc[rows["measure"] == SPEED.name, "policy"])
    if len(found) > 1:
        raise PlanError("policy", f"would have to be {' and '.join(sorted(found))}; it is one for all")
    (policy,) = found or {"auto"}
    return "auto" if policy == resolve_policy("auto", plan.device) else policy


def _budget(rows: pd.DataFrame, plan: Plan) -> float:
    """Of the newest timing, from the column `budget` or the facts of whole rows."""
    if "budget" in rows:
        known = rows["budget"].dropna()
    else:
        facts = rows["versions"] if "versions" in rows else rows["measure"].iloc[:0]
        known = facts.map(lambda found: found.get("budget")).dropna()
    return float(known.iloc[-1]) if len(known) else plan.budget


def _impl(rows: pd.DataFrame, plan: Plan) -> str:
    """auto where that stands for what each method was measured in, else the one that all were measured in."""
    found = {str(spec): set(map(str, part["impl"])) for spec, part in rows.groupby("method")}
    auto = {c.spec: {c.resolve_impl("auto", plan.device, plan.dtype, plan.head_size)} for c in plan.combinations}
    if all(found[spec] <= auto[spec] for spec in found if spec in auto):
        return "auto"
    names = {name for spec in found if spec in auto for name in found[spec]}
    if len(names) > 1:
        raise PlanError("impl", f"would have to be {' and '.join(sorted(names))}; it is one for all")
    return names.pop()
