"""What a saved run of pytest-benchmark must hold: names that stay, and all rows, so that they can be had back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from longatlas.harness.cells import Cell
from longatlas.measures import MEASURES
from longatlas.store.plain import plain_rows

if TYPE_CHECKING:
    import pandas as pd

Rows = list[dict[str, Any]]
TOLD = ("peak_bytes", "state_bytes", "rms_error", "accuracy", "bits_per_byte", "bits_per_byte_at_end")
# What goes without saying in a name.
USUAL = {"batch": 1, "heads": 8, "head_size": 64, "layers": 1, "dtype": "float32", "device": "cpu"}
USUAL_POLICIES = ("", "wall", "gpu_cold")


def group_of(cell: Cell) -> str:
    """The table that a cell stands in: phase and T, or task and preset, and what is not as usual."""
    if not MEASURES[cell.measure].shaped:
        return " ".join((cell.measure, cell.phase, *_unusual(cell)))
    return " ".join((cell.phase, f"T={cell.T}", *_unusual(cell)))


def name_of(cell: Cell) -> str:
    """The full name of a cell's benchmark. Saved runs are compared by it, so it has nothing that may be renamed."""
    what = f"T{cell.T}" if MEASURES[cell.measure].shaped else cell.measure
    return "::".join(("longatlas", cell.method, what, cell.phase, *_unusual(cell)))


def _unusual(cell: Cell) -> list[str]:
    measure = MEASURES[cell.measure]
    told = [cell.level] * (cell.level != "decoder") + [measure.name] * (not measure.timed)
    if not measure.shaped:
        told = [str(cell.case["preset"])]
    facts = {"dtype": cell.dtype, "device": cell.device, **(cell.case if measure.shaped else {})}
    told += [f"{name}={value}" for name, value in sorted(facts.items()) if USUAL.get(name) != value]
    return told + [cell.policy] * (cell.policy not in USUAL_POLICIES) + [cell.unusual_impl] * bool(cell.unusual_impl)


def seconds_of(cell: Cell, rows: pd.DataFrame) -> list[float]:
    """The samples of a timing, or the seconds of a quality cell's training; none where there was nothing to time."""
    if MEASURES[cell.measure].timed:
        timed = rows[rows["metric"] == f"{cell.phase}_ms"].iloc[0]
        return [milliseconds / 1000 for milliseconds in timed["samples"]]
    return [float(seconds) for seconds in rows.loc[rows["metric"] == "train_seconds", "value"]]


def facts_of(cell: Cell, rows: pd.DataFrame, memory: pd.DataFrame | None) -> dict[str, Any]:
    """`extra_info` of a benchmark: what a reader looks for, and all rows as `longatlas`."""
    import pandas as pd

    every = rows if memory is None else pd.concat([rows, memory], ignore_index=True)
    told: dict[str, Any] = {str(row.metric): row.value for row in every.itertuples() if row.metric in TOLD}
    facts = {"status": "ok", "impl": cell.impl, "case": cell.case, "threads": cell.threads, "source": cell.source}
    flat = every.drop(columns=["id", "origin"])
    return {**facts, **told, "longatlas": json.loads(json.dumps(plain_rows(flat)))}
