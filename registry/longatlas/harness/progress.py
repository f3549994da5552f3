"""How a run tells where it is: a bar with the time left on a terminal, a line per cell elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from longatlas.harness.cells import Cell
from longatlas.words import OK, UNSUPPORTED


@dataclass(frozen=True)
class Progress:
    """What is told before and after each cell: `status` is "" while it is being measured.

    done, total  cells
    kept         it was in the store already
    seconds      it took, of which `work` in the measured code itself
    left         seconds that the rest is expected to take; None where nothing expects it
    """

    cell: Cell
    done: int
    total: int
    status: str = ""
    reason: str = ""
    kept: bool = False
    seconds: float = 0.0
    work: float = 0.0
    left: float | None = None


Listener = Callable[[Progress], None]


class progress_bar:
    """A progress bar on stderr with the time left; without a terminal, a line for each measured cell.

    A context manager that gives the Listener. At its end it says what was kept, and what the engine itself cost.
    """

    def __init__(self, *, only_on_terminal: bool = False) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        self._console = Console(stderr=True, highlight=False)
        self._silent = only_on_terminal and not self._console.is_terminal
        columns = (
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.description}"),
        )
        self._bar = Bar(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("", total=None, left="")
        self._start = time.monotonic()
        self._kept = self._measured = 0
        self._work = 0.0

    def __enter__(self) -> Listener:
        self._bar.start()
        return self._tell

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()
        if self._silent:
            return
        if self._kept:
            were = "cell was" if self._kept == 1 else "cells were"
            self._console.print(f"{self._kept} {were} in the store already.")
        if self._measured:
            cells = "cell" if self._measured == 1 else "cells"
            took = f"{time.monotonic() - self._start:.3g} s, {self._work:.3g} s of it in the measured code"
            self._console.print(f"Measured {self._measured} {cells} in {took}.")

    def _tell(self, step: Progress) -> None:
        left = "" if step.left is None else f"left {_minutes(step.left)}"
        self._bar.update(self._task, total=step.total, completed=step.done, description=step.cell.label, left=left)
        if not step.status:
            return
        self._kept += step.kept
        self._measured += not step.kept
        self._work += step.work
        failed = step.status not in (OK, UNSUPPORTED)
        if not step.kept and not self._silent and (failed or not self._console.is_terminal):
            counter = f"[{step.done}/{step.total}]"
            told = f"{counter} {step.cell.measure} {step.cell.label}: {step.status} {step.reason}".rstrip()
            self._console.print(told, soft_wrap=True, markup=False)


def in_words(seconds: float) -> str:
    """A long time in words: "3.5 hours"."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.2g} seconds"


def _minutes(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
