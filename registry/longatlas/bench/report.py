"""The suite's own section of pytest's summary."""

from __future__ import annotations

from collections import Counter
from typing import Any

from longatlas.bench.session import BenchSession
from longatlas.compare.comparison import SAME, Comparison, Line
from longatlas.errors import LongAtlasError
from longatlas.harness.summary import Table, summarise

SHOWN = 40  # lines that differ from the baseline


def write(terminal: Any, session: BenchSession) -> None:
    """Speed, memory, state and quality, every status, and the differences from the baseline."""
    frame = session.found()
    if not frame.empty:
        terminal.section("longatlas")
        for made in summarise(frame):
            _table(terminal, made)
        cells = frame.drop_duplicates("cell")["status"]
        counted = ", ".join(f"{number} {status}" for status, number in sorted(Counter(cells).items()))
        terminal.write_line(f"{len(cells)} cells: {counted}")
    try:
        _against_baseline(terminal, session)
    except LongAtlasError as error:
        terminal.write_line(f"ERROR: {error}", red=True)


def _against_baseline(terminal: Any, session: BenchSession) -> None:
    found = session.comparison()
    if found is None:
        return
    across = " (another machine: ratios to vanilla)" if found.across else ""
    terminal.write_line("")
    terminal.write_line(f"against {found.baseline}{across}: {_counts(found)}")
    differing = [line for line in found.lines if line.verdict != SAME]
    for line in differing[:SHOWN]:
        terminal.write_line("  " + _words(line))
    if len(differing) > SHOWN:
        terminal.write_line(f"  ... and {len(differing) - SHOWN} more")
    verdict = session.verdict()
    if verdict is None:
        return
    for line, reason in verdict.failures:
        terminal.write_line(f"FAILED {_words(line)} ({reason})", red=True)
    if verdict.passed:
        terminal.write_line("passed: nothing is worse than the rules allow", green=True)


def _counts(found: Comparison) -> str:
    return ", ".join(f"{number} {word}" for word, number in Counter(line.verdict for line in found.lines).items())


def _words(line: Line) -> str:
    where = " ".join(filter(None, (line.method, line.phase, f"T={line.T}" if line.T else "", line.metric)))
    if not line.metric:
        return f"{where}: {line.baseline_status or 'nothing'} -> {line.candidate_status or 'nothing'}, {line.verdict}"
    if line.change is None:
        return f"{where}: {line.verdict}"
    return f"{where}: {line.baseline:.4g} -> {line.candidate:.4g} {line.unit}, {line.change:+.1%}, {line.verdict}"


def _table(terminal: Any, made: Table) -> None:
    widths = [max(len(text) for text in column) for column in zip(made.columns, *made.lines, strict=True)]
    terminal.write_line("")
    terminal.write_line(made.title)
    for line in (made.columns, *made.lines):
        terminal.write_line(
            "  " + "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        )
