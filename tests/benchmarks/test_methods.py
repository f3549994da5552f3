"""Methods against one another, in groups by phase and T; every sample comes from the method's own worker."""

from __future__ import annotations

import pytest
from replay import TIMER, replay

from longatlas.harness.cells import Cell


@pytest.mark.benchmark(timer=TIMER, disable_gc=False)
def test_phase(benchmark, cell: Cell, samples: list[float]) -> None:
    benchmark.group = f"{cell.phase} T={cell.T}"
    benchmark.name = cell.method
    benchmark.fullname = f"longatlas::{cell.method}::T{cell.T}::{cell.phase}"
    replay(benchmark, samples)
    benchmark.extra_info.update(impl=cell.impl, case=cell.case, threads=cell.threads, source=cell.source)
