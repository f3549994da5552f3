"""Tables for people and JSON for scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
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


def console(*, stderr: bool = False) -> Console:
    """A console that prints text as it is; wide where the output is no terminal."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else WIDTH_WITHOUT_TERMINAL
    return Console(stderr=stderr, width=width, markup=False, highlight=False, emoji=False)


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
