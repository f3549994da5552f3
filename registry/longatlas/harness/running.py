"""Runs a plan: what is missing in the store is measured, and every finished cell is saved at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longatlas.catalog import has_cuda
from longatlas.harness.cells import Cell, expand
from longatlas.harness.executor import Executor, Finished, Request
from longatlas.harness.local import LocalExecutor
from longatlas.harness.peaks import machine_peaks
from longatlas.harness.plan import Plan, PlanError, load_plan, plan_from_values
from longatlas.harness.progress import Listener, Progress, progress_bar
from longatlas.harness.slot_lock import device_slot
from longatlas.measures import MEASURES
from longatlas.store import Store
from longatlas.words import CRASH, ENDING, OK, SKIPPED, STATUSES

if TYPE_CHECKING:
    import pandas as pd

    from longatlas.harness.estimating import Predictor

CHANGED = "the source of what computes it was changed after the run had begun; run it again"


def run(
    plan: Plan | Mapping[str, Any] | Path | str,
    *,
    store: Store | str | None = None,
    force: bool = False,
    retry_failed: bool = False,
    progress: Listener | bool = True,
    should_stop: Callable[[], bool] = lambda: False,
) -> pd.DataFrame:
    """Measure what a plan asks for and return all its rows, those of earlier runs included.

    plan         a Plan, a mapping of its keys, or the path of a YAML file
    store        a Store, a path or a URL; None = LONGATLAS_STORE, else the user's data folder
    force        measure again what is finished
    retry_failed measure again what is finished with another status than ok
    progress     a function that is told before and after each cell; True = a bar on stderr where that is a terminal
    should_stop  asked often; when it says yes the run ends with StoppedError

    A cell that fails is a row with its status; nothing is dropped. Raises LongAtlasError for a bad plan or store.
    """
    from longatlas.harness.estimating import Predictor

    plan = as_plan(plan)
    check_device(plan)
    cells = expand(plan)
    store = store if isinstance(store, Store) else Store(store)
    store.check_writable()
    with executor_on(plan.device, store, plan.memory_gib, should_stop) as executor, _listener(progress) as told:
        statuses = {} if force else store.finished((cell.key for cell in cells), timeout=plan.timeout)
        if retry_failed:
            statuses = {key: status for key, status in statuses.items() if status == OK}
        predictor = Predictor.of(store, plan, [cell for cell in cells if cell.key not in statuses])
        plan_run = PlanRun(cells, statuses, plan.timeout, store, executor, told, predictor)
        plan_run.go(should_stop)
    keys = [plan_run.keys[cell.key] for cell in cells]
    return _in_order(store.rows(keys=keys), keys)


def _in_order(frame: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Rows as the plan names their cells, not as the turns happened to end."""
    place = {key: number for number, key in enumerate(keys)}
    return frame.sort_values("cell", key=lambda keys: keys.map(place), kind="stable").reset_index(drop=True)


def estimate(plan: Plan, store: Store) -> float:
    """Seconds that the missing cells of tasks would take, from a few training steps of each.

    Retrofit methods share a host, so the sum is what it takes at most; cells that cannot be run count as nothing.
    """
    from longatlas.harness.estimating import Predictor

    cells = [cell for cell in expand(plan) if not MEASURES[cell.measure].shaped]
    done = store.finished((cell.key for cell in cells), timeout=plan.timeout)
    missing = [cell for cell in cells if cell.key not in done]
    predictor = Predictor.of(store, plan, missing)
    cache = str(hosts_path(store))
    asked = [Request("estimate", {"cell": asdict(cell), "cache": cache}) for cell in missing]
    with executor_on(plan.device, store, plan.memory_gib) as executor:
        seconds = {id(reply.request): reply.value or 0.0 for reply in executor.ask(asked, plan.timeout)}
    for cell, request in zip(missing, asked, strict=True):
        predictor.tell(cell, seconds[id(request)])
    return sum(map(predictor.unlimited, missing))


def check_device(plan: Plan) -> None:
    """Raise PlanError where a plan asks for a GPU and there is none."""
    if plan.device == "cuda" and not has_cuda():
        raise PlanError("device", "is 'cuda', but no NVIDIA GPU was found here; `longatlas doctor` says more")


def _listener(progress: Listener | bool) -> AbstractContextManager[Listener]:
    if progress is True:
        return progress_bar(only_on_terminal=True)
    return nullcontext(progress or (lambda step: None))


def as_plan(plan: Plan | Mapping[str, Any] | Path | str) -> Plan:
    """Accept a Plan, a mapping of its keys, or a path."""
    if isinstance(plan, Plan):
        return plan
    return plan_from_values(plan) if isinstance(plan, Mapping) else load_plan(plan)


@contextmanager
def executor_on(
    device: str,
    store: Store | None = None,
    memory_gib: float = 0.0,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Executor]:
    """The executor with the device to itself; its log and its trained hosts lie beside the store.

    Without a store it measures no cells, and what methods print goes to stderr. Raises StoppedError when `should_stop`
    says so while another process has the device.
    """
    log, cache = (log_path(store), hosts_path(store)) if store else (None, None)
    with device_slot(device.split(":")[0], should_stop), LocalExecutor(log, cache, memory_gib) as executor:
        yield executor


def hosts_path(store: Store) -> Path:
    """The folder of trained hosts, beside a SQLite store."""
    return store.beside(".hosts")


def log_path(store: Store) -> Path:
    """What workers print."""
    return store.beside(".workers.log")


class PlanRun:
    """One plan on its way through the executor.

    statuses  key -> status of its cells that are finished
    predictor expects what the rest takes

    `keys` are those that its cells are stored under: of a worker that is another than was expected, its own.
    """

    def __init__(
        self,
        cells: list[Cell],
        statuses: dict[str, str],
        timeout: float,
        store: Store,
        executor: Executor,
        progress: Listener = lambda step: None,
        predictor: Predictor | None = None,
    ) -> None:
        self._cells, self._statuses, self._timeout = cells, statuses, timeout
        self._store, self._executor, self._progress = store, executor, progress
        self._predictor = predictor
        self._waiting = {cell.key: cell for cell in cells if cell.key not in statuses}
        self.keys = {cell.key: cell.key for cell in cells}
        self._ended: dict[tuple[str, ...], Cell] = {}
        self._peaks: dict[str, float] | None = None
        self._done = 0

    def go(self, should_stop: Callable[[], bool]) -> None:
        """Finish all cells, group by group."""
        for _, group in groupby(self._cells, key=lambda cell: cell.group):
            self.measure(list(group), should_stop)

    def measure(self, group: list[Cell], should_stop: Callable[[], bool] = lambda: False) -> None:
        """Finish the cells of one group: those that are not in the store, and that need to be tried, are measured."""
        missing = [cell for cell in group if not self._settled(cell)]
        if missing and MEASURES[missing[0].measure].timed and self._peaks is None:
            self._peaks = machine_peaks(self._executor, self._store, missing[0])
        for finished in self._executor.measure_group(missing, self._timeout, should_stop, self._begin, self._peaks):
            finished = self._of_one_code(finished)
            self._save(finished)
            self._finish(finished)

    def _of_one_code(self, finished: Finished) -> Finished:
        """What a changed source has measured has no name: nobody knows which part of it was the new one."""
        if finished.cell.is_current:
            return finished
        return replace(finished, rows=[{"status": CRASH, "reason": CHANGED}])

    def _save(self, finished: Finished) -> None:
        record = finished.cell.record(finished.rows, finished.seconds, finished.who)
        self._store.save(record)
        self.keys[finished.cell.key] = record.key

    def _settled(self, cell: Cell) -> bool:
        """Tell a cell that is in the store already, or that need not be tried; whether it was one."""
        status = self._statuses.get(cell.key, "")
        shorter = self._ended.get(cell.series)
        if status not in ("", SKIPPED) or (status == SKIPPED and shorter is not None):
            self._finish(Finished(cell, [{"status": status}], 0.0, 0.0), kept=True)
            return True
        if shorter is None or shorter.T >= cell.T:
            return False
        self._begin(cell)
        reason = f"T = {shorter.T} already ran out of memory or time"
        skipped = Finished(cell, [{"status": SKIPPED, "reason": reason}], 0.0, 0.0)
        self._save(skipped)
        self._finish(skipped)
        return True

    def _begin(self, cell: Cell) -> None:
        self._progress(Progress(cell, self._done, len(self._cells), left=self._left))

    def _finish(self, finished: Finished, *, kept: bool = False) -> None:
        cell, status, reason = finished.cell, finished.status, finished.reason
        self._done += 1
        if status in ENDING and cell.T:
            self._ended.setdefault(cell.series, cell)
        seconds, work = finished.seconds, finished.work
        self._waiting.pop(cell.key, None)
        if self._predictor is not None and seconds and STATUSES[status].measured:
            self._predictor.learn(cell, seconds)
        step = Progress(cell, self._done, len(self._cells), status, reason, kept, seconds, work, self._left)
        self._progress(step)

    @property
    def _left(self) -> float | None:
        """Seconds that the rest is expected to take."""
        return None if self._predictor is None else sum(map(self._predictor.seconds, self._waiting.values()))
