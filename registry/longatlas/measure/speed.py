"""Times one cell, slice by slice, until the median is known to 2% or the budget is spent."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from torch.utils import benchmark

from longatlas.measure.policies import Policy

MIN_SAMPLES = 5
MAX_SAMPLES = 1000
MAX_IN_A_SLICE = 250
MIN_SLICES = 2  # a machine that is slow for a moment must not be slow for all samples of one method
TARGET = 0.02
FEWEST_FOR_AN_INTERVAL = 6  # with fewer, no pair of samples covers the median with 95%
SELF_WARMING = 0.25  # seconds; a run this long does not notice that the caches were another's


class Timing:
    """The samples of one cell.

    run      one repetition
    policy   how it is timed
    budget   seconds of samples, at most
    look     gets what the first call gave
    agree    what counts of this process's seconds: of several ranks, which must decide alike, the slowest's

    The first call is apart: it compiles, tunes and fills caches. `compile_seconds` is how much longer it took than the
    median does.
    """

    def __init__(
        self,
        run: Callable[[], Any],
        policy: Policy,
        budget: float,
        look: Callable[[Any], None] = lambda result: None,
        agree: Callable[[float], float] = float,
    ) -> None:
        self._run, self._policy, self.budget = run, policy, budget
        self.samples: list[float] = []
        self._slices = 0
        start = benchmark.timer()
        result = run()
        self._first_seconds = agree(benchmark.timer() - start)
        look(result)
        self.work_seconds = self._first_seconds

    @property
    def is_done(self) -> bool:
        """Whether the 95% interval is narrower than 2% of the median, or the budget or 1000 samples are spent.

        At least five samples are taken, and two slices unless the first spends the budget.
        """
        n = len(self.samples)
        if n < MIN_SAMPLES or (self._slices < MIN_SLICES and sum(self.samples) < self.budget):
            return False
        if sum(self.samples) >= self.budget or n >= MAX_SAMPLES:
            return True
        low, high = median_interval(self.samples)
        return n >= 2 * MIN_SAMPLES and high - low < TARGET * statistics.median(self.samples)

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.samples)

    @property
    def compile_seconds(self) -> float:
        return max(0.0, self._first_seconds - self.median)

    def sample(self, seconds: float) -> None:
        """Take samples for about `seconds`; others may have run on the device since the last slice."""
        start = time.perf_counter()
        if (self.samples[-1] if self.samples else self._first_seconds) < SELF_WARMING:
            self._run()
        self._slices += 1
        taken: list[float] = []
        while sum(taken) < seconds and len(taken) < MAX_IN_A_SLICE and not self.is_done:
            new = self._policy(self._run, seconds / 4, MAX_IN_A_SLICE - len(taken))
            taken += new
            self.samples += new
        self.work_seconds += time.perf_counter() - start

    def rows(self, phase: str, tokens: int) -> list[dict[str, Any]]:
        """The median with its interval and all samples, tokens per second, and the time of compilation.

        tokens  of one repetition
        """
        n, median = len(self.samples), self.median
        low, high = median_interval(self.samples)
        time_row = {
            "metric": f"{phase}_ms",
            "unit": "ms",
            "value": 1000 * median,
            "low": 1000 * low,
            "high": 1000 * high,
            "n": n,
            "samples": [1000 * s for s in self.samples],
        }
        rate = {"metric": "tokens_per_s", "unit": "tokens/s", "value": tokens / median, "n": n}
        compiled = {"metric": "compile_ms", "unit": "ms", "value": 1000 * self.compile_seconds, "n": 1}
        return [time_row, {**rate, "low": tokens / high, "high": tokens / low}, compiled]


def median_interval(samples: Sequence[float]) -> tuple[float, float]:
    """The 95% interval of the median from order statistics; with fewer than six samples, the range."""
    if len(samples) < FEWEST_FOR_AN_INTERVAL:
        return min(samples), max(samples)
    ordered, outside = sorted(samples), _samples_outside(len(samples))
    return ordered[outside], ordered[-1 - outside]


@lru_cache(maxsize=MAX_SAMPLES)
def _samples_outside(n: int) -> int:
    """The most samples at each end that can be left out so that the others hold the median with 95%.

    Each sample is below the median with probability 1/2: the binomial law, in whole numbers.
    """
    outside, below = 0, 1  # `below` of the 2^n ways leave at most `outside` samples below the median
    while 40 * (below + math.comb(n, outside + 1)) <= 2**n:
        outside += 1
        below += math.comb(n, outside)
    return outside
