"""Runs cells in persistent workers, one per method, impl and device; the parent never touches a device."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from longatlas.harness.cells import Cell
from longatlas.harness.workers.births import births
from longatlas.harness.workers.output import Log
from longatlas.harness.workers.worker import Answer, LostError, Worker
from longatlas.measures import MEASURES

Row = dict[str, Any]

ROUNDS = 4  # slices that the budget of a timing is cut into; each cell of a group has a turn in each


@dataclass(frozen=True)
class Finished:
    """A cell with its rows. `seconds` it took, of which `work` in the measured code itself.

    who  the worker's own account of its machine and versions; None where it gave no answer
    """

    cell: Cell
    rows: list[Row]
    seconds: float
    work: float
    who: dict[str, str] | None = None

    @property
    def status(self) -> str:
        return str(self.rows[0].get("status", "ok"))

    @property
    def reason(self) -> str:
        return str(self.rows[0].get("reason", ""))


@dataclass
class Turns:
    """A cell that is being measured: its worker, and the time that it has used."""

    cell: Cell
    worker: Worker
    timeout: float
    seconds: float = 0.0
    work: float = 0.0
    rows: list[Row] = field(default_factory=list)
    answer: Answer = field(default_factory=dict)
    was_idle: bool = False
    was_crowded: bool = False
    who: dict[str, str] | None = None

    def ask(self, what: str, arguments: dict[str, Any], should_stop: Callable[[], bool]) -> bool:
        """Ask the worker; whether the cell is finished then. Raises StoppedError."""
        try:
            self.worker.start()  # its start is not the cell's time
            start = time.monotonic()
            left = max(self.timeout - self.seconds, 0.0)
            self.answer = self.worker.ask(what, arguments, timeout=left, should_stop=should_stop)
            self.seconds += time.monotonic() - start
            self.work += self.answer.get("work", 0.0)
            self.rows, self.who = self.answer.get("rows", []), self.answer.get("who", self.who)
        except LostError as lost:
            reason = f"not done after {self.timeout:g} s" if lost.status == "timeout" else lost.reason
            self.rows, self.was_idle = [{"status": lost.status, "reason": reason}], lost.was_idle
            self.seconds = max(self.seconds, self.timeout) if lost.status == "timeout" else self.seconds
        return bool(self.rows)

    @property
    def may_be_innocent(self) -> bool:
        """Whether it failed while others' cells were in memory too, or its worker died when it was not at work."""
        return self.was_idle or (self.was_crowded and self.finished.status == "oom")

    @property
    def finished(self) -> Finished:
        return Finished(self.cell, self.rows, self.seconds, self.work, self.who)


class Executor:
    """Keeps a worker for each method and impl; use it as a context manager so that all of them end.

    cache       folder of trained hosts
    log         file that takes what workers print
    memory_gib  what a worker may take; 0 = 80% of the machine's memory, or what is free where that is less

    `peaks` are the machine's (longatlas.measure.roofline.Peaks as a dict): shares of them are told where it is set.
    """

    def __init__(self, cache: Path, log: Path, memory_gib: float = 0.0) -> None:
        cache.mkdir(parents=True, exist_ok=True)
        self._cache, self._memory_gib = cache, memory_gib
        self._log = Log(log)
        self._births = births(self._log.descriptor)
        self._workers: dict[tuple[str, ...], Worker] = {}
        self.peaks: dict[str, float] | None = None

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in self._workers.values():
            worker.stop()
        self._births.close()
        self._log.close()

    def measure(self, cell: Cell, timeout: float, should_stop: Callable[[], bool] = lambda: False) -> Finished:
        """Measure one cell; a worker that dies or hangs gives a row `crash`, `oom` or `timeout`."""
        return next(self.measure_group([cell], timeout, should_stop))

    def measure_peaks(self, device: str, dtype: str, threads: int, timeout: float = 120.0) -> dict[str, float] | None:
        """Measure the machine's peaks in a worker of their own; None where that fails."""
        worker = Worker(self._births, self._log, self._memory_gib)
        asked = {"device": device, "dtype": dtype, "threads": threads}
        try:
            found: dict[str, float] | None = worker.ask("peaks", asked, timeout=timeout, should_stop=lambda: False).get(
                "peaks"
            )
            return found
        except LostError:
            return None
        finally:
            worker.stop()

    def estimate(self, cell: Cell, timeout: float, should_stop: Callable[[], bool] = lambda: False) -> float | None:
        """Seconds that a quality cell's trainings would take, from a few steps; None where it cannot be run."""
        turns = Turns(cell, self._worker(cell), timeout)
        turns.worker.begin_cell()
        found = turns.ask("estimate", {"cell": asdict(cell), "cache": str(self._cache)}, should_stop)
        return None if found else float(turns.answer["seconds"])

    def measure_group(
        self,
        cells: Sequence[Cell],
        timeout: float,
        should_stop: Callable[[], bool] = lambda: False,
        begun: Callable[[Cell], None] = lambda cell: None,
    ) -> Iterator[Finished]:
        """Measure cells of different methods, each as soon as it is finished.

        Speed cells are timed in turns: a slice of the budget each, in an order drawn anew for each round, so that a
        machine that drifts hurts all alike. Other cells come one after the other.

        timeout  seconds of its own that a cell may take
        begun    told of each cell before its first request

        Raises StoppedError when `should_stop` says so; cells that are not finished are lost then.
        """
        again: list[Cell] = []
        for turns in self._in_turns(cells, timeout, should_stop, begun):
            if turns.may_be_innocent:
                again.append(turns.cell)
            else:
                yield turns.finished
        for cell in again:
            for turns in self._in_turns([cell], timeout, should_stop):
                yield turns.finished

    def _in_turns(
        self,
        cells: Sequence[Cell],
        timeout: float,
        should_stop: Callable[[], bool],
        begun: Callable[[Cell], None] = lambda cell: None,
    ) -> Iterator[Turns]:
        timed: list[Turns] = []
        for cell in cells:
            begun(cell)
            turns = Turns(cell, self._worker(cell), timeout)
            turns.worker.begin_cell()
            if turns.ask(*self._first_request(cell), should_stop):
                turns.was_crowded = bool(timed)
                yield turns
            else:
                timed.append(turns)
        yield from _sample_in_turns(timed, should_stop)

    def _first_request(self, cell: Cell) -> tuple[str, dict[str, Any]]:
        measure = MEASURES[cell.measure]
        asked = {"cell": asdict(cell), "function": measure.function}
        if measure.timed:
            return "prepare", {**asked, "peaks": self.peaks}
        return "measure", {**asked, "cache": str(self._cache)}

    def _worker(self, cell: Cell) -> Worker:
        place = (cell.method, cell.impl, cell.device)
        if place not in self._workers:
            self._workers[place] = Worker(self._births, self._log, self._memory_gib)
        return self._workers[place]


def _sample_in_turns(timed: list[Turns], should_stop: Callable[[], bool]) -> Iterator[Turns]:
    order = random.Random(timed[0].cell.key if timed else None)
    while timed:
        order.shuffle(timed)
        for turns in list(timed):
            if turns.ask("sample", {"seconds": turns.cell.budget / ROUNDS}, should_stop):
                timed.remove(turns)
                turns.was_crowded = bool(timed)
                yield turns
