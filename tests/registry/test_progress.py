"""Progress: what is told, what a terminal and a pipe get to see."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from longatlas.harness import progress
from longatlas.harness.cells import Cell, expand
from longatlas.harness.plan import Plan
from longatlas.harness.progress import Progress, progress_bar


def cells(**changes: Any) -> list[Cell]:
    values = {"methods": ("vanilla", "alibi"), "measure": ("memory",), "phases": ("prefill",), "lengths": (100, 400)}
    return expand(Plan(**{**values, **changes}))


def show(steps: list[Progress], monkeypatch: pytest.MonkeyPatch, *, terminal: bool, **options: Any) -> str:
    stream = io.StringIO()
    monkeypatch.setattr("rich.console.Console", lambda **kw: Console(file=stream, force_terminal=terminal, width=120))
    with progress_bar(**options) as tell:
        for step in steps:
            tell(step)
    return stream.getvalue()


def steps() -> list[Progress]:
    a, b, c, d = cells()
    return [
        Progress(a, 1, 4, "ok", kept=True),
        Progress(b, 1, 4),
        Progress(b, 2, 4, "ok", seconds=2.0, work=1.5, left=3725.0),
        Progress(c, 3, 4, "crash", "[bold]it broke[/bold]", seconds=1.0, work=0.5, left=61.0),
        Progress(d, 4, 4, "unsupported", "no", left=0.0),
    ]


def test_a_pipe_gets_a_line_per_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    text = show(steps(), monkeypatch, terminal=False)
    assert text.splitlines()[:3] == [
        "[2/4] memory alibi prefill T=100: ok",
        "[3/4] memory vanilla prefill T=400: crash [bold]it broke[/bold]",
        "[4/4] memory alibi prefill T=400: unsupported no",
    ]
    assert "1 cell was in the store already." in text
    assert "Measured 3 cells in " in text
    assert "2 s of it in the measured code." in text


def test_a_terminal_gets_a_bar_with_the_time_left_and_the_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    text = show(steps()[:4], monkeypatch, terminal=True)
    assert "left 1:01" in text
    assert "crash" in text
    assert "prefill T=100: ok" not in text
    assert "left 1:02:05" in show(steps()[:3], monkeypatch, terminal=True)


def test_the_python_api_is_silent_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    assert show(steps(), monkeypatch, terminal=False, only_on_terminal=True) == ""
    assert "left" in show(steps()[:3], monkeypatch, terminal=True, only_on_terminal=True)


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (3599.0, "59:59"), (3600.0, "1:00:00")])
def test_time_is_told_in_minutes(seconds: float, text: str) -> None:
    assert progress._minutes(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(3.0, "3 seconds"), (150.0, "2.5 minutes"), (4e5, "4.6 days")])
def test_a_long_time_in_words(seconds: float, text: str) -> None:
    assert progress.in_words(seconds) == text
