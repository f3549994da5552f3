"""One test per cell; every sample comes from the method's own worker."""

from __future__ import annotations

from typing import Any

import pytest

from longatlas.bench.records import facts_of
from longatlas.bench.replay import TIMER, replay
from longatlas.bench.session import BenchSession
from longatlas.harness.cells import Cell

NO_FAULT = ("unsupported", "oom", "timeout", "skipped")
USUAL = {"batch": 1, "heads": 8, "head_size": 64, "layers": 1}


@pytest.mark.filterwarnings("ignore:Benchmark fixture was not used")  # a cell that failed has nothing to replay
@pytest.mark.benchmark(timer=TIMER, disable_gc=False)
def test_cell(benchmark: Any, longatlas_session: BenchSession, longatlas_cell: Cell) -> None:
    cell = longatlas_cell
    rows = longatlas_session.rows(cell)
    status, reason = rows.iloc[0]["status"], rows.iloc[0]["reason"]
    memory = longatlas_session.memory_rows(cell)
    if status in NO_FAULT:
        pytest.skip(f"{status}: {reason}")
    if status != "ok":
        pytest.fail(f"{status}: {reason}", pytrace=False)
    benchmark.group = group_of(cell)
    benchmark.name = cell.method
    benchmark.fullname = f"longatlas::{cell.method}::{group_of(cell, '::')}"
    replay(benchmark, seconds_of(cell, rows))
    benchmark.extra_info.update(facts_of(cell, rows, memory))


def group_of(cell: Cell, between: str = " ") -> str:
    """The phase, T and what is not as usual; stable, because saved runs are compared by it."""
    if cell.measure == "quality":
        return between.join(("quality", cell.phase, cell.case["preset"]))
    parts = [f"T={cell.T}" if between == " " else f"T{cell.T}"]
    parts = [cell.phase, *parts] if between == " " else [*parts, cell.phase]
    parts += [cell.level] * (cell.level != "decoder")
    parts += ["memory"] * (cell.measure == "memory")
    parts += [f"{name}={value}" for name, value in sorted(cell.case.items()) if USUAL.get(name) != value]
    return between.join(parts)


def seconds_of(cell: Cell, rows: Any) -> list[float]:
    """The samples of a timing; for quality the seconds of a training, and nothing to time is one sample of zero."""
    if cell.measure == "speed":
        timed = rows[rows["metric"] == f"{cell.phase}_ms"].iloc[0]
        return [milliseconds / 1000 for milliseconds in timed["samples"]]
    trained = rows.loc[rows["metric"] == "train_seconds", "value"]
    return [float(trained.iloc[0]) if len(trained) else 0.0]
