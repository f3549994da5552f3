"""The plan behind what is shown: the one whose cells are these rows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from longatlas.harness.plan import MEASURES, PHASES, Plan

if TYPE_CHECKING:
    import pandas as pd

SHAPE = ("batch", "heads", "head_size", "layers")


def plan_of(methods: Iterable[str], setting: Mapping[str, Any], rows: pd.DataFrame) -> Plan:
    """The plan that measures what rows hold, for these methods.

    setting  device, dtype, threads, level and case of the rows (longatlas.store.queries.settings)
    rows     flat rows of that setting with measure, phase and T; without any, the plan's defaults

    Raises PlanError for what no plan can say, such as a method that is not installed.
    """
    case = setting["case"]
    found = {name: set(rows[name]) if len(rows) else set() for name in ("measure", "phase", "T")}
    values: dict[str, Any] = {
        "measure": tuple(name for name in MEASURES if name in found["measure"]),
        "device": setting["device"],
        "dtype": setting["dtype"],
        "threads": 0 if int(setting["threads"]) == os.cpu_count() else int(setting["threads"]),
    }
    if "quality" in found["measure"]:
        values |= {"tasks": tuple(sorted(found["phase"])), "preset": case["preset"], "corpus": case.get("corpus", "")}
    else:
        values |= {name: int(case[name]) for name in SHAPE if name in case}
        values |= {
            "phases": tuple(name for name in PHASES if name in found["phase"]),
            "lengths": tuple(sorted(int(length) for length in found["T"])),
            "levels": (setting["level"] or "decoder",),
        }
    return Plan(tuple(methods), **{key: value for key, value in values.items() if value not in ((), None)})
