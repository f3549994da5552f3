"""What a worker does for cells: it measures one whole, or times one in turns with other workers' cells."""

from __future__ import annotations

import time
from pkgutil import resolve_name
from typing import Any

import torch

from longatlas.measure import gate
from longatlas.measure.roofline import Peaks
from longatlas.measure.rows import Answer, checked, failure
from longatlas.measure.timed import TimedCell
from longatlas.tasks.estimate import seconds


class Bench:
    """One worker's place of measuring. It holds at most one cell that is being timed."""

    def __init__(self) -> None:
        self._timed: TimedCell | None = None

    def measure(self, cell: dict[str, Any], cache: str, function: str) -> Answer:
        """All rows of a cell, from the function of its measure; `cache` is the folder of trained hosts."""
        verdict = self._begin(cell)
        if verdict.red:
            return {"rows": [failure("incorrect", verdict.red)]}
        start = time.perf_counter()
        rows = resolve_name(function)(cell, cache)
        return {"rows": checked(rows), "work": time.perf_counter() - start}

    def prepare(self, cell: dict[str, Any], function: str, peaks: dict[str, float] | None = None) -> Answer:
        """Build a cell that is timed, from the class of its measure, and make its first call; rows when it fails."""
        verdict = self._begin(cell)
        if verdict.red:
            return {"rows": [failure("incorrect", verdict.red)]}
        start = time.perf_counter()
        self._timed = resolve_name(function)(cell, verdict, Peaks.from_dict(peaks) if peaks else None)
        return {"work": time.perf_counter() - start}

    def sample(self, seconds: float) -> Answer:
        """A slice of samples for the prepared cell; its rows once it is done."""
        assert self._timed is not None
        before = self._timed.timing.work_seconds
        rows = self._timed.sample(seconds)
        answer: Answer = {"work": self._timed.timing.work_seconds - before}
        if rows is not None:
            answer["rows"], self._timed = checked(rows), None
        return answer

    def _begin(self, cell: dict[str, Any]) -> gate.Verdict:
        self._timed = None
        return gate.begin(cell)


def estimate(cell: dict[str, Any], cache: str) -> Answer:
    """Seconds that a quality cell would take, from a few of its own training steps."""
    torch.set_num_threads(cell["threads"])
    return {"value": seconds(cell, cache)}
