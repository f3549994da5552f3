"""Tables for people and JSON for scripts."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

WIDTH_WITHOUT_TERMINAL = 180
LONGEST_NAME = 24
COLOURS = {
    "ready": "green",
    "passed": "green",
    "ok": "green",
    "declared": "yellow",
    "needs": "yellow",
    "skipped": "yellow",
    "described": "dim",
    "broken": "red",
    "failed": "red",
}


# What would move a terminal's cursor or change its state (C0, DEL, C1), turn the direction of all that follows, or
# cannot be encoded; a tab and the end of a line are kept.
_HARMFUL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def harmless(text: str) -> str:
    """Text from elsewhere (plugins, rows, logs) without what a terminal would obey instead of showing it."""
    return _HARMFUL.sub("", text)


class SafeConsole(Console):
    """A console on which every text is harmless, whatever renders it; what the console itself adds is left."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(harmless(segment.text), segment.style)


def console(*, stderr: bool = False) -> Console:
    """A console that prints text as it is, less control characters; wide where the output is no terminal."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else WIDTH_WITHOUT_TERMINAL
    return SafeConsole(stderr=stderr, width=width, markup=False, highlight=False, emoji=False)


def print_json(value: Any) -> None:
    """Print a value as JSON, readable in any encoding."""
    click.echo(json.dumps(value, indent=2))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A table; texts that are a status get its colour, numbers stand on the right, and short names stay whole."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False)
    lines = list(rows)
    short = all(len(str(row[0])) <= LONGEST_NAME for row in lines)
    for place, column in enumerate(columns):
        made.add_column(column, overflow="fold", no_wrap=short and place == 0)
    for row in lines:
        made.add_row(*(cell(value) for value in row))
    return made


def cell(value: Any) -> Text:
    """One value of a table."""
    if isinstance(value, int | float):
        return Text(f"{value:g}", justify="right")
    return status_text(str(value))


def status_text(text: str) -> Text:
    """A text in the colour of the status that it starts with, if any."""
    return Text(text, style=COLOURS.get(text.split(":")[0].split(" ")[0], ""))
