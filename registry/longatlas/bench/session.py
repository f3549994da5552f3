"""What the suite measures: cells in groups, each group when its first test asks for it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from longatlas.bench.options import option, plans_of
from longatlas.compare import Comparison, Rule, compare, load_side, parse_rules
from longatlas.compare.gate import Verdict, judge
from longatlas.compare.identity import in_settings_of
from longatlas.compare.sides import Side, side_of
from longatlas.errors import LongAtlasError
from longatlas.harness.cells import Cell, expand
from longatlas.harness.executor import Executor
from longatlas.harness.local import LocalExecutor
from longatlas.harness.plan import Plan
from longatlas.harness.running import PlanRun, check_device, hosts_path, log_path
from longatlas.harness.slot_lock import device_slot
from longatlas.measures import MEASURES, MEMORY
from longatlas.store import Store

if TYPE_CHECKING:
    import pandas as pd


class BenchSession:
    """The cells of a pytest run and what was found for them.

    timed  the cells that have a test: all but the memory passes beside a timing
    """

    def __init__(self, plans: Sequence[Plan], store: Store, baseline: Side | None, rules: Sequence[Rule]) -> None:
        self.store, self.baseline, self.rules = store, baseline, list(rules)
        self._plans = {plan: expand(plan) for plan in plans}
        self.cells = [cell for cells in self._plans.values() for cell in cells]
        times = {_place(cell) for cell in self.cells if MEASURES[cell.measure].timed}
        self.timed = [cell for cell in self.cells if cell.measure != MEMORY.name or _place(cell) not in times]
        self._selected, self._asked = {cell.key for cell in self.cells}, set[str]()
        self._workers = contextlib.ExitStack()

    def select(self, timed: Iterable[Cell]) -> None:
        """Measure these cells only, and the memory passes beside them."""
        places = {_place(cell) for cell in timed}
        self._selected = {cell.key for cell in self.cells if _place(cell) in places}

    def rows(self, cell: Cell) -> pd.DataFrame:
        """The rows of a cell, its group being measured first where it was not yet; samples included."""
        if cell.key not in self._asked:
            self._measure_group_of(cell)
        return self.store.rows(keys=self._stored([cell]), samples=True)

    def memory_rows(self, cell: Cell) -> pd.DataFrame | None:
        """The rows of the memory pass of a speed cell, where the session has one."""
        beside = next((c for c in self.cells if c.measure == MEMORY.name and _place(c) == _place(cell)), None)
        return self.rows(beside) if beside is not None and MEASURES[cell.measure].timed else None

    def found(self) -> pd.DataFrame:
        """All rows of the cells that tests have asked for."""
        return self.store.rows(keys=self._stored([cell for cell in self.cells if cell.key in self._asked]))

    def _stored(self, cells: Iterable[Cell]) -> list[str]:
        """The keys that cells are stored under."""
        keys = {planned: key for run in self._runs.values() for planned, key in run.keys.items()}
        return [keys[cell.key] for cell in cells]

    def comparison(self) -> Comparison | None:
        """What was found beside the baseline; None without one. Raises LongAtlasError."""
        if self.baseline is None:
            return None
        found = self.found()
        if found.empty:
            raise LongAtlasError("nothing was measured, so there is nothing to compare with the baseline")
        kept = in_settings_of(self.baseline.rows, found, "method")  # it may hold much that was not asked for
        return compare(replace(self.baseline, rows=kept), side_of("this run", found))

    def verdict(self) -> Verdict | None:
        """The gate's answer; None without rules. Raises LongAtlasError where it cannot be given."""
        found = self.comparison() if self.rules else None
        return judge(found, self.rules) if found is not None else None

    def is_worse(self) -> bool:
        """Whether the gate fails, or cannot be applied."""
        try:
            verdict = self.verdict()
        except LongAtlasError:
            return True
        return verdict is not None and not verdict.passed

    def stop(self) -> None:
        """End the workers."""
        self._workers.close()

    def _measure_group_of(self, cell: Cell) -> None:
        plan = next(plan for plan, cells in self._plans.items() if cell in cells)
        group = [c for c in self._plans[plan] if c.group == cell.group and c.key in self._selected]
        with device_slot(plan.device):
            self._runs[plan].measure(group)
        self._asked |= {c.key for c in group}

    @cached_property
    def _runs(self) -> dict[Plan, PlanRun]:
        memory = max(plan.memory_gib for plan in self._plans)
        executor = self._workers.enter_context(LocalExecutor(log_path(self.store), hosts_path(self.store), memory))
        return {plan: self._run_of(plan, cells, executor) for plan, cells in self._plans.items()}

    def _run_of(self, plan: Plan, cells: list[Cell], executor: Executor) -> PlanRun:
        finished = self.store.finished([cell.key for cell in cells], timeout=plan.timeout)
        return PlanRun(cells, finished, plan.timeout, self.store, executor)


def open_session(config: pytest.Config) -> BenchSession:
    """The session that pytest's options ask for. Raises pytest.UsageError."""
    if hasattr(config, "workerinput") or config.getoption("numprocesses", None):
        raise pytest.UsageError("longatlas.bench measures one thing at a time: run it without -n")
    if not config.pluginmanager.hasplugin("benchmark"):
        raise pytest.UsageError("longatlas.bench needs pytest-benchmark: run it without -p no:benchmark")
    try:
        return _open(config)
    except LongAtlasError as error:
        raise pytest.UsageError(str(error)) from None


def _open(config: pytest.Config) -> BenchSession:
    rules, named, where = (option(config, name) for name in ("fail", "baseline", "store"))
    if rules is not None and named is None:
        raise LongAtlasError("--longatlas-fail needs --longatlas-baseline: a store, a file, or `shipped`")
    plans = plans_of(config)
    for plan in plans:
        check_device(plan)
    baseline = load_side(named) if named is not None else None
    store = Store(where or _temporary_store(config))
    store.check_writable()
    return BenchSession(plans, store, baseline, parse_rules(rules) if rules is not None else [])


def _temporary_store(config: pytest.Config) -> str:
    folder = tempfile.TemporaryDirectory(prefix="longatlas-bench-")
    config.add_cleanup(folder.cleanup)
    return str(Path(folder.name) / "store.sqlite")


def _place(cell: Cell) -> tuple[Any, ...]:
    return cell.method, cell.phase, cell.level, cell.T, str(cell.case)
