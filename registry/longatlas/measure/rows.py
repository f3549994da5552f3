"""Rows: what a cell's measurement gives, one flat dict per value."""

from __future__ import annotations

import traceback
from typing import Any

import torch

from longatlas.columns import of_tables
from longatlas.errors import LongAtlasError, UnsupportedError, is_about_memory

Row = dict[str, Any]
Answer = dict[str, Any]

ROW_KEYS = frozenset(of_tables("rows", "samples"))


def failure(status: str, reason: str) -> Row:
    """A row without a value."""
    return {"status": status, "reason": reason}


def checked(rows: list[Row]) -> list[Row]:
    """The rows, when they are what the store takes; a task of a plugin may give anything. Raises TypeError."""
    if not isinstance(rows, list) or not rows:
        raise TypeError(f"a task's run must return a list of at least one metric, not {rows!r}")
    for row in rows:
        wrong = set(row) - ROW_KEYS
        if wrong:
            raise TypeError(f"a metric has the key '{min(wrong)}'; known: {', '.join(sorted(ROW_KEYS))}")
    return rows


def failure_of(error: BaseException) -> Row:
    """What measuring has raised as a row: `unsupported`, `oom` or `crash`, with the reason."""
    if isinstance(error, LongAtlasError | UnsupportedError):
        return failure("unsupported", str(error))
    if isinstance(error, MemoryError):
        return failure("oom", "the worker's memory limit was reached")
    if isinstance(error, torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and is_about_memory(str(error))):
        return failure("oom", str(error).splitlines()[0])
    return failure("crash", " ".join(traceback.format_exception_only(error)[-1].split()))
