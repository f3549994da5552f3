"""What a saved run of pytest-benchmark must hold: names that stay, and all rows, so that they can be had back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from longatlas.errors import LongAtlasError
from longatlas.harness.cells import Cell
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
    if cell.measure == "quality":
        return " ".join(("quality", cell.phase, *_unusual(cell)))
    return " ".join((cell.phase, f"T={cell.T}", *_unusual(cell)))


def name_of(cell: Cell) -> str:
    """The full name of a cell's benchmark. Saved runs are compared by it, so it has nothing that may be renamed."""
    length = () if cell.measure == "quality" else (f"T{cell.T}",)
    kind = "quality" if cell.measure == "quality" else ""
    return "::".join(filter(None, ("longatlas", cell.method, *length, kind, cell.phase, *_unusual(cell))))


def _unusual(cell: Cell) -> list[str]:
    if cell.measure == "quality":
        told = [str(cell.case["preset"])]
    else:
        told = [cell.level] * (cell.level != "decoder") + ["memory"] * (cell.measure == "memory")
    facts = {"dtype": cell.dtype, "device": cell.device, **({} if cell.measure == "quality" else cell.case)}
    told += [f"{name}={value}" for name, value in sorted(facts.items()) if USUAL.get(name) != value]
    return told + [cell.policy] * (cell.policy not in USUAL_POLICIES) + [cell.unusual_impl] * bool(cell.unusual_impl)


def seconds_of(cell: Cell, rows: pd.DataFrame) -> list[float]:
    """The samples of a timing, or the seconds of a quality cell's training; none where there was nothing to time."""
    if cell.measure == "speed":
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


def rows_of_benchmarks(saved: dict[str, Any], file: str) -> tuple[Rows, int]:
    """The flat rows of a file that pytest-benchmark saved, and how many benchmarks of other suites it has besides.

    Raises LongAtlasError when it has none of longatlas's.
    """
    ours = [b["extra_info"]["longatlas"] for b in saved["benchmarks"] if "longatlas" in b.get("extra_info", {})]
    others = len(saved["benchmarks"]) - len(ours)
    if not ours:
        raise LongAtlasError(
            f"'{file}' has {others} benchmarks, none of longatlas's; those that `pytest --pyargs longatlas.bench` "
            "saves can be read"
        )
    return [row for rows in ours for row in rows], others
