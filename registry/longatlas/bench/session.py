"""What the suite measures: cells in groups, each group when its first test asks for it."""

from __future__ import annotations

import contextlib
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from longatlas.bench.options import option, plans_of
from longatlas.compare import Comparison, compare, load_side, parse_rules
from longatlas.compare.gate import Verdict, judge
from longatlas.compare.identity import in_settings_of
from longatlas.compare.sides import Side, side_of
from longatlas.errors import LongAtlasError
from longatlas.harness.cells import Cell, expand
from longatlas.harness.executor import Executor
from longatlas.harness.peaks import set_peaks
from longatlas.harness.plan import Plan
from longatlas.harness.running import hosts_path, log_path
from longatlas.harness.slot_lock import device_slot
from longatlas.store import Store

if TYPE_CHECKING:
    import pandas as pd


class BenchSession:
    """The cells of a pytest run and what was found for them.

    timed  the cells that have a test: speed and quality, and memory where speed is not measured
    """

    def __init__(self, plans: Sequence[Plan], store: Store, baseline: Side | None, rules: str | None) -> None:
        self.store, self.baseline = store, baseline
        self.rules = parse_rules(rules) if rules is not None else []
        self._plans = list(plans)
        self._groups: dict[Any, list[Cell]] = defaultdict(list)
        self._timeouts: dict[str, float] = {}
        for number, plan in enumerate(plans):
            for cell in expand(plan):
                self._groups[(number, *cell.group)].append(cell)
                self._timeouts[cell.key] = plan.timeout
        self.cells = [cell for group in self._groups.values() for cell in group]
        timed = [cell for cell in self.cells if cell.measure != "memory"]
        shaped = {_place(cell) for cell in timed if cell.measure == "speed"}
        self.timed = [*timed, *(c for c in self.cells if c.measure == "memory" and _place(c) not in shaped)]
        self._stack = contextlib.ExitStack()
        self._asked: set[str] = set()

    def rows(self, cell: Cell) -> pd.DataFrame:
        """The rows of a cell, its group being measured first where it was not yet; samples included."""
        self._measure(cell)
        return self.store.rows(keys=[cell.key], samples=True)

    def memory_rows(self, cell: Cell) -> pd.DataFrame | None:
        """The rows of the memory pass of a speed cell, where the session has one."""
        beside = next((c for c in self.cells if c.measure == "memory" and _place(c) == _place(cell)), None)
        return self.rows(beside) if beside is not None and cell.measure == "speed" else None

    def found(self) -> pd.DataFrame:
        """All rows of the cells that tests have asked for."""
        keys = [cell.key for cell in self.cells if cell.key in self._asked]
        return self.store.rows(keys=keys)

    def comparison(self) -> Comparison | None:
        """What was found beside the baseline; None without one, or before anything was measured."""
        frame = self.found()
        if self.baseline is None or frame.empty:
            return None
        kept = in_settings_of(self.baseline.rows, frame, "method")  # it may hold much that was not asked for
        return compare(replace(self.baseline, rows=kept), side_of("this run", frame))

    def verdict(self) -> Verdict | None:
        """The gate's answer; None without rules."""
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
        self._stack.close()

    def _measure(self, cell: Cell) -> None:
        group = next(cells for cells in self._groups.values() if cell in cells)
        self._asked.add(cell.key)
        missing = [c for c in group if c.key not in self.store.finished([c.key], timeout=self._timeouts[c.key])]
        if cell not in missing:
            return
        with device_slot(cell.device):
            if cell.measure == "speed" and self._executor.peaks is None:
                set_peaks(self._executor, self.store, cell)
            for finished in self._executor.measure_group(missing, self._timeouts[cell.key]):
                self.store.save(finished.cell, finished.rows, finished.seconds)

    @cached_property
    def _executor(self) -> Executor:
        memory = max(plan.memory_gib for plan in self._plans)
        return self._stack.enter_context(Executor(hosts_path(self.store), log_path(self.store), memory))


def open_session(config: pytest.Config) -> BenchSession:
    """The session that pytest's options ask for. Raises pytest.UsageError."""
    if hasattr(config, "workerinput") or config.getoption("numprocesses", None):
        raise pytest.UsageError("longatlas.bench measures one thing at a time: run it without -n")
    try:
        rules, named = option(config, "fail"), option(config, "baseline")
        if rules is not None and named is None:
            raise LongAtlasError("--longatlas-fail needs --longatlas-baseline: a store, a file, or `shipped`")
        store = option(config, "store") or str(Path(tempfile.mkdtemp(prefix="longatlas-bench-")) / "store.sqlite")
        baseline = load_side(named) if named is not None else None
        return BenchSession(plans_of(config), Store(store), baseline, rules)
    except LongAtlasError as error:
        raise pytest.UsageError(str(error)) from None


def _place(cell: Cell) -> tuple[Any, ...]:
    return cell.method, cell.phase, cell.level, cell.T, str(cell.case)
