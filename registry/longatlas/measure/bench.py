"""What a worker can be asked: to measure a cell whole, or to time one in turns with other workers' cells."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from longatlas.combination import parse_spec
from longatlas.decoder.state import state_bytes
from longatlas.errors import LongAtlasError, UnsupportedError
from longatlas.measure import gate, levels
from longatlas.measure.flops import cell_flops
from longatlas.measure.memory import memory_rows
from longatlas.measure.policies import POLICIES
from longatlas.measure.roofline import Peaks, Traffic, machine_peaks, moved_bytes, roofline_rows, written_state
from longatlas.measure.rows import Answer, Row, checked, failure, is_out_of_memory
from longatlas.measure.speed import Timing
from longatlas.tasks.estimate import seconds
from longatlas.tasks.session import open_session


def answered(method: Callable[..., Answer]) -> Callable[..., Answer]:
    """Turn what a method raises into a row: `unsupported` or `oom` with its reason; a crash is passed on."""

    @wraps(method)
    def guarded(self: Bench, **arguments: Any) -> Answer:
        try:
            return method(self, **arguments)
        except (LongAtlasError, UnsupportedError) as error:
            return {"rows": [failure("unsupported", str(error))]}
        except RuntimeError as error:
            if is_out_of_memory(error):
                return {"rows": [failure("oom", str(error).splitlines()[0])]}
            raise

    return guarded


class Bench:
    """One worker's place of measuring. It holds at most one cell that is being timed."""

    def __init__(self) -> None:
        self._timing: Timing | None = None
        self._cell: dict[str, Any] = {}
        self._error = float("nan")
        self._flops: float | None = None
        self._moved = 0
        self._peaks: Peaks | None = None

    @answered
    def measure(self, cell: dict[str, Any], cache: str) -> Answer:
        """All rows of a memory or quality cell; `cache` is the folder of trained hosts."""
        red = self._begin(cell)
        if red:
            return {"rows": [red]}
        start = time.perf_counter()
        rows = _memory(cell) if cell["measure"] == "memory" else _quality(cell, cache)
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
    def prepare(self, cell: dict[str, Any], peaks: dict[str, float] | None = None) -> Answer:
        """Build a speed cell and make its first call; rows when it cannot be timed."""
        red = self._begin(cell)
        if red:
            return {"rows": [red]}
        start = time.perf_counter()
        subject = levels.build(cell)
        once = levels.phase_runner(subject, cell["phase"], cell["T"])
        self._cell, self._peaks = cell, Peaks.from_dict(peaks) if peaks else None
        self._flops = cell_flops(parse_spec(cell["method"]), subject.module, subject.config, cell)
        self._timing = Timing(once, POLICIES[cell["policy"]], cell["budget"], lambda given: self._look(once, given))
        return {"work": time.perf_counter() - start}

    def _look(self, once: levels.Repetition, given: tuple[torch.Tensor, Any]) -> None:
        output, after = given
        before = state_bytes(once.state)
        traffic = Traffic(
            weights=state_bytes(once.subject.weights()),
            inputs=state_bytes(once.read),
            outputs=output.nbytes,
            state_in=before,
            state_out=written_state(before, state_bytes(after)),
        )
        self._moved = moved_bytes(traffic, self._cell["phase"])

    @answered
    def sample(self, seconds: float) -> Answer:
        """A slice of samples for the prepared cell; its rows once it is done."""
        assert self._timing is not None
        before = self._timing.work_seconds
        self._timing.sample(seconds)
        if self._cell["device"] == "cuda":
            torch.cuda.empty_cache()  # other workers' cells share the device
        answer: Answer = {"work": self._timing.work_seconds - before}
        if self._timing.is_done:
            answer["rows"] = self._speed_rows(self._timing)
            self._timing = None
        return answer

    def _speed_rows(self, timing: Timing) -> list[Row]:
        cell = self._cell
        tokens = cell["case"]["batch"] * (1 if cell["phase"] == "decode" else cell["T"])
        error = {"metric": "rms_error", "unit": "ratio", "value": self._error, "n": 1}
        roofline = roofline_rows(self._flops, self._moved, timing.median, self._peaks)
        return checked([*timing.rows(cell["phase"], tokens), error, *roofline])

    def _begin(self, cell: dict[str, Any]) -> Row | None:
        """Set the threads and look at correctness; the row of a cell that must not be measured."""
        self._timing = None
        if cell["device"] == "cuda" and not torch.cuda.is_available():
            raise UnsupportedError("torch finds no GPU here; `longatlas doctor` says why")
        found = gate.verdict(cell["method"], cell["impl"], cell["device"], cell["dtype"], "kv_heads" in cell["case"])
        torch.set_num_threads(cell["threads"])
        self._error = found.error
        return failure("incorrect", found.red) if found.red else None


def _memory(cell: dict[str, Any]) -> list[Row]:
    return memory_rows(levels.build(cell), cell["phase"], cell["T"], cell["device"])


def _quality(cell: dict[str, Any], cache: str) -> list[Row]:
    task, session = open_session(cell, cache)
    rows: list[Row] = task.run(session)
    return rows
