"""Progress: what is told, how long the rest is expected to take, and what a terminal and a pipe get to see."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from longatlas.harness import progress
from longatlas.harness.cells import Cell, expand
from longatlas.harness.plan import Plan
from longatlas.harness.progress import Pace, Progress, progress_bar


def cells(**changes: Any) -> list[Cell]:
    values = {"methods": ("vanilla", "alibi"), "measure": ("memory",), "phases": ("prefill",), "lengths": (100, 400)}
    return expand(Plan(**{**values, **changes}))


def test_nothing_is_expected_before_anything_is_known() -> None:
    pace = Pace(cells())
    assert pace.left is None
    pace.finish(cells()[0], 0.0)
    assert pace.left is None, "a cell that was in the store says nothing"


def test_a_memory_pass_is_expected_in_proportion_to_its_length() -> None:
    all_cells = cells()
    assert [cell.T for cell in all_cells] == [100, 100, 400, 400]
    pace = Pace(all_cells)
    pace.finish(all_cells[0], 2.0)
    assert pace.left == pytest.approx(2.0 + 8.0 + 8.0)
    pace.finish(all_cells[1], 4.0)
    assert pace.left == pytest.approx(2 * 4 * 3.0)
    for cell in all_cells[2:]:
        pace.finish(cell, 10.0)
    assert pace.left == 0


def test_a_timing_takes_its_budget_at_any_length_and_an_unknown_kind_the_mean() -> None:
    all_cells = cells(measure=("speed",), phases=("prefill", "decode"))
    pace = Pace(all_cells)
    first = all_cells[0]
    pace.finish(first, 3.0)
    assert pace.left == pytest.approx(3.0 * (len(all_cells) - 1))


def test_a_kind_not_met_yet_counts_as_what_was_expected_of_it() -> None:
    all_cells = cells(measure=("memory", "quality"), tasks=("mqar",), methods=("vanilla",), lengths=(100,))
    memory, quality = all_cells
    pace = Pace(all_cells, {memory.key: 1.0, quality.key: 90.0})
    assert pace.left == 91.0
    pace.finish(memory, 3.0)
    assert pace.left == 90.0, "not as long as the memory pass"
    pace.finish(quality, 200.0)
    assert pace.left == 0


def test_what_was_measured_counts_before_what_was_expected() -> None:
    all_cells = cells(lengths=(100,))
    pace = Pace(all_cells, {cell.key: 50.0 for cell in all_cells})
    pace.finish(all_cells[0], 2.0)
    assert pace.left == 2.0


def test_some_that_nothing_was_expected_of_count_as_the_mean() -> None:
    all_cells = cells(measure=("speed",), phases=("prefill", "decode"), methods=("vanilla",), lengths=(100,))
    prefill = all_cells[0]
    pace = Pace(all_cells, {prefill.key: 50.0})
    assert pace.left is None
    pace.finish(prefill, 2.0)
    assert pace.left == 2.0


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
