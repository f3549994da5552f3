"""The executor of this machine: persistent workers, one per method, impl and device, and one per other request."""

from __future__ import annotations

import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from longatlas.harness.cells import Cell
from longatlas.harness.executor import Finished, Reply, Request, Row
from longatlas.harness.slot_lock import StoppedError
from longatlas.harness.workers.output import Log
from longatlas.harness.workers.starter import Starter
from longatlas.harness.workers.worker import Answer, LostError, Worker, wait
from longatlas.measures import MEASURES
from longatlas.processes import spare_gib

ROUNDS = 4  # slices that the budget of a timing is cut into; each cell of a group has a turn in each


@dataclass
class Turns:
    """A cell that is being measured: its worker, and the time that it has used."""

    cell: Cell
    worker: Worker
    timeout: float
    seconds: float = 0.0
    work: float = 0.0
    rows: list[Row] = field(default_factory=list)
    was_idle: bool = False
    was_crowded: bool = False
    who: dict[str, str] | None = None

    def ask(self, name: str, arguments: dict[str, Any], should_stop: Callable[[], bool]) -> bool:
        """Ask the worker; whether the cell is finished then. Raises StoppedError."""
        try:
            self.worker.start()  # its start is not the cell's time
            start = time.monotonic()
            left = max(self.timeout - self.seconds, 0.0)
            answer = self.worker.ask(name, arguments, timeout=left, should_stop=should_stop)
            self.seconds += time.monotonic() - start
            self.work += answer.get("work", 0.0)
            self.rows, self.who = answer.get("rows", []), answer.get("who", self.who)
        except LostError as lost:
            reason = f"not done after {self.timeout:g} s" if lost.status == "timeout" else lost.reason
            self.rows, self.was_idle = [{"status": lost.status, "reason": reason}], lost.was_idle
            self.seconds = max(self.seconds, self.timeout) if lost.status == "timeout" else self.seconds
        return bool(self.rows)

    @property
    def needs_another_try(self) -> bool:
        """Whether it may not be to blame: its worker ended before it was asked, or others' cells took memory too."""
        return self.was_idle or (self.was_crowded and self.finished.status == "oom")

    @property
    def finished(self) -> Finished:
        return Finished(self.cell, self.rows, self.seconds, self.work, self.who)


@dataclass
class Pending:
    """A request that is being answered."""

    request: Request
    worker: Worker
    timeout: float
    hear: Callable[[Request, Any], None]
    told: list[Any] = field(default_factory=list)
    start: float = 0.0

    def poll(self) -> Reply | None:
        """Send it, if it was not; its reply, once it is there."""
        try:
            if not self.start:
                self.worker.start()
                self.start = time.monotonic()
                self.worker.send(self.request.name, self.request.arguments, timeout=self.timeout, told=self._hear)
            answer = self.worker.poll()
        except LostError as lost:
            return self._reply(status=lost.status, reason=lost.reason)
        if answer is None:
            return None
        return self._reply(**answer["rows"][0]) if "rows" in answer else self._reply(answer["value"])

    def _hear(self, value: Any) -> None:
        self.told.append(value)
        self.hear(self.request, value)

    def _reply(self, value: Any = None, status: str = "ok", reason: str = "") -> Reply:
        return Reply(self.request, value, status, reason, tuple(self.told), time.monotonic() - self.start)


class LocalExecutor:
    """An `Executor` of this machine; use it as a context manager so that all of its workers end.

    log         file that takes what workers print; None = this process's stderr
    cache       folder of trained hosts
    memory_gib  what a worker may take; 0 = 80% of the machine's memory, or what is free where that is less
    """

    def __init__(self, log: Path | None = None, cache: Path | None = None, memory_gib: float = 0.0) -> None:
        if cache is not None:
            cache.mkdir(parents=True, exist_ok=True)
        self._cache, self._memory_gib = cache, memory_gib
        self._log = Log(log)
        self._starter = Starter(self._log.descriptor)
        self._workers: dict[tuple[str, ...], Worker] = {}

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in self._workers.values():
            worker.stop()
        self._starter.close()
        self._log.close()

    def measure_group(
        self,
        cells: Sequence[Cell],
        timeout: float,
        should_stop: Callable[[], bool] = lambda: False,
        begun: Callable[[Cell], None] = lambda cell: None,
        peaks: Mapping[str, float] | None = None,
    ) -> Iterator[Finished]:
        """See Executor; a worker that dies or hangs gives a row `crash`, `oom` or `timeout`."""
        again: list[Cell] = []
        for turns in self._in_turns(cells, timeout, should_stop, begun, peaks):
            if turns.needs_another_try:
                again.append(turns.cell)
            else:
                yield turns.finished
        for cell in again:
            for turns in self._in_turns([cell], timeout, should_stop, lambda cell: None, peaks):
                yield turns.finished

    def _in_turns(
        self,
        cells: Sequence[Cell],
        timeout: float,
        should_stop: Callable[[], bool],
        begun: Callable[[Cell], None],
        peaks: Mapping[str, float] | None,
    ) -> Iterator[Turns]:
        timed: list[Turns] = []
        for cell in cells:
            begun(cell)
            turns = Turns(cell, self._worker_of(cell), timeout)
            turns.worker.begin()
            if turns.ask(*self._first_request(cell, peaks), should_stop):
                turns.was_crowded = bool(timed)
                yield turns
            else:
                timed.append(turns)
        yield from _sample_in_turns(timed, should_stop)

    def _first_request(self, cell: Cell, peaks: Mapping[str, float] | None) -> tuple[str, Answer]:
        measure = MEASURES[cell.measure]
        asked = {"cell": asdict(cell), "function": measure.function}
        if measure.timed:
            return "prepare", {**asked, "peaks": peaks}
        return "measure", {**asked, "cache": str(self._cache)}

    def _worker_of(self, cell: Cell) -> Worker:
        place = (cell.method, cell.impl, cell.device)
        if place not in self._workers:
            self._workers[place] = self._worker()
        return self._workers[place]

    def _worker(self, *, share: int = 1) -> Worker:
        return Worker(self._starter, self._log, (self._memory_gib or spare_gib()) / share)

    def ask(
        self,
        requests: Sequence[Request],
        timeout: float,
        *,
        together: bool = False,
        should_stop: Callable[[], bool] = lambda: False,
        told: Callable[[Request, Any], None] = lambda request, value: None,
    ) -> Iterator[Reply]:
        """See Executor; as many are answered at once as there are cores."""
        most = min(_cores(), len(requests)) if together else 1
        waiting, pending = deque(requests), list[Pending]()
        try:
            while waiting or pending:
                while waiting and len(pending) < most:
                    pending.append(Pending(waiting.popleft(), self._worker(share=most), timeout, told))
                for each in list(pending):
                    reply = each.poll()
                    if reply is not None:
                        pending.remove(each)
                        each.worker.stop()
                        yield reply
                if should_stop():
                    raise StoppedError
                wait(each.worker for each in pending)
        finally:
            for each in pending:
                each.worker.stop()


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _sample_in_turns(timed: list[Turns], should_stop: Callable[[], bool]) -> Iterator[Turns]:
    order = random.Random(timed[0].cell.key if timed else None)
    while timed:
        order.shuffle(timed)
        for turns in list(timed):
            if turns.ask("sample", {"seconds": turns.cell.budget / ROUNDS}, should_stop):
                timed.remove(turns)
                turns.was_crowded = bool(timed)
                yield turns
