"""Puts measured samples behind pytest-benchmark's own table, by its public interface."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any


class ReplayTimer:
    """A timer that tells the measured durations, one for each pair of calls."""

    def __init__(self) -> None:
        self._clock: Iterator[float] = iter(())

    def load(self, seconds: Sequence[float]) -> None:
        """From now on, successive pairs of calls are these seconds apart."""
        ends = list(accumulate(seconds))
        starts = [0.0, *ends[:-1]]
        self._clock = iter([time for pair in zip(starts, ends, strict=True) for time in pair])

    def __call__(self) -> float:
        return next(self._clock, 0.0)


TIMER = ReplayTimer()


def replay(benchmark: Any, seconds: Sequence[float]) -> None:
    """Hand samples to a `benchmark` fixture whose timer is TIMER; nothing is run."""
    TIMER.load(seconds)
    benchmark.pedantic(lambda: None, rounds=len(seconds), iterations=1, warmup_rounds=0)
