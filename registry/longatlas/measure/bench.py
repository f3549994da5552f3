"""What a worker can be asked: to measure a cell whole, or to time one in turns with other workers' cells."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from pkgutil import resolve_name
from typing import Any

import torch

from longatlas import identity
from longatlas.errors import LongAtlasError, UnsupportedError
from longatlas.measure import gate
from longatlas.measure.roofline import Peaks, machine_peaks
from longatlas.measure.rows import Answer, checked, failure, is_out_of_memory
from longatlas.measure.timed import TimedCell
from longatlas.tasks.estimate import seconds


def answered(method: Callable[..., Answer]) -> Callable[..., Answer]:
    """Say who measured, and turn what a method raises into a row: `unsupported` or `oom` with its reason; a crash is
    passed on.
    """

    @wraps(method)
    def guarded(self: Bench, **arguments: Any) -> Answer:
        try:
            answer = method(self, **arguments)
        except (LongAtlasError, UnsupportedError) as error:
            answer = {"rows": [failure("unsupported", str(error))]}
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            answer = {"rows": [failure("oom", str(error).splitlines()[0])]}
        return {**answer, "who": identity.facts(self.device)}

    return guarded


class Bench:
    """One worker's place of measuring. It holds at most one cell that is being timed."""

    def __init__(self) -> None:
        self._timed: TimedCell | None = None
        self.device = "cpu"

    @answered
    def measure(self, cell: dict[str, Any], cache: str, function: str) -> Answer:
        """All rows of a cell, from the function of its measure; `cache` is the folder of trained hosts."""
        verdict = self._begin(cell)
        if verdict.red:
            return {"rows": [failure("incorrect", verdict.red)]}
        start = time.perf_counter()
        rows = resolve_name(function)(cell, cache)
        return {"rows": checked(rows), "work": time.perf_counter() - start}

    @answered
    def estimate(self, cell: dict[str, Any], cache: str) -> Answer:
        """What a quality cell would take, from a few of its own training steps: `seconds`."""
        torch.set_num_threads(cell["threads"])
        return {"seconds": seconds(cell, cache)}

    def peaks(self, device: str, dtype: str, threads: int) -> Answer:
        """What the machine reaches: see longatlas.measure.roofline.machine_peaks."""
        return {"peaks": machine_peaks(device, dtype, threads).to_dict()}

    @answered
    def prepare(self, cell: dict[str, Any], function: str, peaks: dict[str, float] | None = None) -> Answer:
        """Build a cell that is timed, from the class of its measure, and make its first call; rows when it fails."""
        verdict = self._begin(cell)
        if verdict.red:
            return {"rows": [failure("incorrect", verdict.red)]}
        start = time.perf_counter()
        self._timed = resolve_name(function)(cell, verdict, Peaks.from_dict(peaks) if peaks else None)
        return {"work": time.perf_counter() - start}

    @answered
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
        self._timed, self.device = None, cell["device"]
        return gate.begin(cell)
