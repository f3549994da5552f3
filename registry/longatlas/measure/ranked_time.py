"""The time that several ranks take together: the slowest one's."""

from __future__ import annotations

import time

import torch
from torch import distributed
from torch.utils import benchmark

from longatlas.measure import levels, ranks
from longatlas.measure.policies import Run
from longatlas.measure.ranks import Cell
from longatlas.measure.rows import Row
from longatlas.measure.speed import Timing

SLICE = 0.5  # seconds of samples at once


class RankedTiming:
    """The samples of a cell, taken by its ranks all at once; it is done when it is made.

    A sample is the slowest rank's time of one repetition, which all begin together. It takes no turns with other cells:
    its ranks keep the machine.
    """

    is_done = True

    def __init__(self, cell: Cell) -> None:
        start = time.perf_counter()
        self._rows = ranks.each(cell, _time)[0]
        self.work_seconds = time.perf_counter() - start

    def sample(self, seconds: float) -> None:
        """Nothing is left to do."""

    def rows(self) -> list[Row]:
        """As those of longatlas.measure.speed.Timing."""
        return self._rows


def _time(rank: int, n: int, cell: Cell) -> list[Row]:
    timing = Timing(ranks.repetition(n, cell), _together, cell["budget"], agree=_slowest)
    while not timing.is_done:
        timing.sample(min(SLICE, cell["budget"] / 2))
    return timing.rows(cell["phase"], levels.tokens_of(cell))


def _together(run: Run, seconds: float, most: int) -> list[float]:
    """A policy: samples that begin together in all ranks, and are the slowest rank's."""
    samples: list[float] = []
    while not samples or (sum(samples) < seconds and len(samples) < most):
        distributed.barrier()
        start = benchmark.timer()
        run()
        samples.append(_slowest(benchmark.timer() - start))
    return samples


def _slowest(seconds: float) -> float:
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    longest = torch.tensor([seconds], dtype=torch.float64, device=device)
    distributed.all_reduce(longest, distributed.ReduceOp.MAX)
    return float(longest)
