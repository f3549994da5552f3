"""What a saved run of pytest-benchmark must hold so that its rows can be had back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from longatlas.harness.cells import Cell
from longatlas.store.transfer import plain_rows

if TYPE_CHECKING:
    import pandas as pd

Rows = list[dict[str, Any]]
TOLD = ("peak_bytes", "state_bytes", "rms_error", "accuracy", "bits_per_byte")


def facts_of(cell: Cell, rows: pd.DataFrame, memory: pd.DataFrame | None) -> dict[str, Any]:
    """`extra_info` of a benchmark: what a reader looks for, and all rows as `longatlas`."""
    import pandas as pd

    every = rows if memory is None else pd.concat([rows, memory], ignore_index=True)
    told: dict[str, Any] = {str(row.metric): row.value for row in every.itertuples() if row.metric in TOLD}
    facts = {"status": "ok", "impl": cell.impl, "case": cell.case, "threads": cell.threads, "source": cell.source}
    flat = every.drop(columns=["id", "origin"])
    return {**facts, **told, "longatlas": json.loads(json.dumps(plain_rows(flat)))}


def rows_of_benchmarks(saved: dict[str, Any]) -> Rows:
    """The flat rows of a file that pytest-benchmark saved; benchmarks that are not longatlas's are left out."""
    return [row for benchmark in saved["benchmarks"] for row in benchmark.get("extra_info", {}).get("longatlas", [])]
