"""Runs a plan: what is missing in the store is measured, and every finished cell is saved at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longatlas.catalog import has_cuda
from longatlas.harness.cells import Cell, expand
from longatlas.harness.executor import Executor
from longatlas.harness.plan import Plan, PlanError, load_plan, plan_from_values
from longatlas.harness.slot_lock import StoppedError, device_slot
from longatlas.harness.store import Store

if TYPE_CHECKING:
    import pandas as pd

ENDS_A_SERIES = ("oom", "timeout", "skipped")


@dataclass(frozen=True)
class Progress:
    """What is told after each cell, and before each: `status` is "" while it is being measured."""

    cell: Cell
    done: int
    total: int
    status: str
    reason: str = ""
    kept: bool = False


Listener = Callable[[Progress], None]


def run(
    plan: Plan | Mapping[str, Any] | Path | str,
    *,
    store: Store | str | None = None,
    force: bool = False,
    progress: Listener | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> pd.DataFrame:
    """Measure what a plan asks for and return all its rows, those of earlier runs included.

    plan         a Plan, a mapping of its keys, or the path of a YAML file
    store        a Store, a path or a URL; None = LONGATLAS_STORE, else the user's data folder
    force        measure again what is finished
    progress     told before and after each cell
    should_stop  asked often; when it says yes the run ends with StoppedError

    A cell that fails is a row with its status; nothing is dropped. Raises LongAtlasError for a bad plan or store.
    """
    plan = as_plan(plan)
    if plan.device == "cuda" and not has_cuda():
        raise PlanError("device", "is 'cuda', but no NVIDIA GPU was found here; `longatlas doctor` says more")
    cells = expand(plan)
    store = store if isinstance(store, Store) else Store(store)
    store.check_writable()
    with device_slot(plan.device, should_stop):
        statuses = {} if force else store.finished((cell.key for cell in cells), timeout=plan.timeout)
        with Executor(hosts_path(store), log_path(store), plan.memory_gib) as executor:
            _run_cells(cells, statuses, plan, store, executor, progress or (lambda step: None), should_stop)
    return store.rows(keys=[cell.key for cell in cells])


def as_plan(plan: Plan | Mapping[str, Any] | Path | str) -> Plan:
    """Accept a Plan, a mapping of its keys, or a path."""
    if isinstance(plan, Plan):
        return plan
    return plan_from_values(plan) if isinstance(plan, Mapping) else load_plan(plan)


def hosts_path(store: Store) -> Path:
    """The folder of trained hosts, beside a SQLite store."""
    return _beside(store, ".hosts")


def log_path(store: Store) -> Path:
    """What workers print."""
    return _beside(store, ".workers.log")


def _beside(store: Store, suffix: str) -> Path:
    if store.is_sqlite:
        return Path(str(store.url.database)).with_suffix(suffix)
    from platformdirs import user_cache_path

    folder = user_cache_path("longatlas")
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"store{suffix}"


def _run_cells(
    cells: list[Cell],
    statuses: dict[str, str],
    plan: Plan,
    store: Store,
    executor: Executor,
    progress: Listener,
    should_stop: Callable[[], bool],
) -> None:
    ended: dict[tuple[str, str, str, str], Cell] = {}
    for done, cell in enumerate(cells):
        status, reason = statuses.get(cell.key, ""), ""
        kept = status not in ("", "skipped") or (status == "skipped" and cell.series in ended)
        if not kept:
            if should_stop():
                raise StoppedError
            progress(Progress(cell, done, len(cells), ""))
            status, reason = _finish(cell, ended, plan, store, executor, should_stop)
        if status in ENDS_A_SERIES and cell.T:
            ended.setdefault(cell.series, cell)
        progress(Progress(cell, done + 1, len(cells), status, reason, kept))


def _finish(
    cell: Cell,
    ended: dict[tuple[str, str, str, str], Cell],
    plan: Plan,
    store: Store,
    executor: Executor,
    should_stop: Callable[[], bool],
) -> tuple[str, str]:
    start = time.monotonic()
    shorter = ended.get(cell.series)
    if shorter is not None and shorter.T < cell.T:
        reason = f"T = {shorter.T} already ran out of memory or time"
        rows: list[dict[str, Any]] = [{"status": "skipped", "reason": reason}]
    else:
        rows = executor.measure(cell, plan.timeout, should_stop)
    store.save(cell, rows, time.monotonic() - start)
    return rows[0].get("status", "ok"), rows[0].get("reason", "")
