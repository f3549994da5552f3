"""One cell of speed: built, looked at once for its bytes, timed slice by slice, and its rows."""

from __future__ import annotations

from typing import Any

import torch

from longatlas.combination import parse_spec
from longatlas.decoder.state import state_bytes
from longatlas.measure import gate, levels
from longatlas.measure.flops import cell_flops
from longatlas.measure.policies import POLICIES
from longatlas.measure.ranked_time import RankedTiming
from longatlas.measure.ranks import ranks_of
from longatlas.measure.roofline import Peaks, Traffic, moved_bytes, roofline_rows, written_state
from longatlas.measure.rows import Row
from longatlas.measure.speed import Timing


class TimedCell:
    """A speed cell (a mapping of its fields) ready to be timed; its first call is made here.

    verdict  the gate's, whose error becomes a row
    peaks    the machine's, None = no share of them is told

    Raises UnsupportedError where the method has no part in the level.
    """

    timing: Timing | RankedTiming

    def __init__(self, cell: dict[str, Any], verdict: gate.Verdict, peaks: Peaks | None) -> None:
        self._cell, self._verdict = cell, verdict
        if ranks_of(cell) > 1:
            self.timing = RankedTiming(cell)
            return
        subject = levels.build(cell)
        self._once = levels.phase_runner(subject, cell["phase"], cell["T"])
        self._peaks, self._moved = peaks, 0
        self._flops = cell_flops(parse_spec(cell["method"]), subject.module, subject.config, cell)
        self.timing = Timing(self._once, POLICIES[cell["policy"]], cell["budget"], self._look)

    def _look(self, given: tuple[torch.Tensor, Any]) -> None:
        output, after = given
        before = state_bytes(self._once.state)
        traffic = Traffic(
            weights=state_bytes(self._once.subject.weights()),
            inputs=state_bytes(self._once.read),
            outputs=output.nbytes,
            state_in=before,
            state_out=written_state(before, state_bytes(after)),
        )
        self._moved = moved_bytes(traffic, self._cell["phase"])

    def sample(self, seconds: float) -> list[Row] | None:
        """Take a slice of samples; the cell's rows once it is done."""
        self.timing.sample(seconds)
        if self._cell["device"] == "cuda":
            torch.cuda.empty_cache()  # other workers' cells share the device
        return self._rows() if self.timing.is_done else None

    def _rows(self) -> list[Row]:
        cell = self._cell
        error = {"metric": "rms_error", "unit": "ratio", "value": self._verdict.error, "n": 1}
        if isinstance(self.timing, RankedTiming):
            return [*self.timing.rows(), error]
        roofline = roofline_rows(self._flops, self._moved, self.timing.median, self._peaks)
        return [*self.timing.rows(cell["phase"], levels.tokens_of(cell)), error, *roofline]
