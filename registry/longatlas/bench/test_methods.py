"""One test per cell; every sample comes from the method's own worker."""

from __future__ import annotations

from typing import Any

import pytest

from longatlas.bench.records import facts_of, group_of, name_of, seconds_of
from longatlas.bench.replay import TIMER, replay
from longatlas.bench.session import BenchSession
from longatlas.harness.cells import Cell
from longatlas.words import STATUSES


@pytest.mark.filterwarnings("ignore:Benchmark fixture was not used")  # a cell may have no time to replay
@pytest.mark.benchmark(timer=TIMER, disable_gc=False)
def test_cell(benchmark: Any, longatlas_session: BenchSession, longatlas_cell: Cell) -> None:
    cell = longatlas_cell
    rows, memory = longatlas_session.rows(cell), longatlas_session.memory_rows(cell)
    status, reason = rows.iloc[0]["status"], rows.iloc[0]["reason"]
    if STATUSES[status].is_fault:
        pytest.fail(f"{status}: {reason}", pytrace=False)
    if not STATUSES[status].measured:
        pytest.skip(f"{status}: {reason}")
    seconds = seconds_of(cell, rows)
    if seconds:
        benchmark.group, benchmark.name, benchmark.fullname = group_of(cell), cell.method, name_of(cell)
        replay(benchmark, seconds)
        benchmark.extra_info.update(facts_of(cell, rows, memory))
