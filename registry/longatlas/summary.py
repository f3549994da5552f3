"""Rows as tables for people: one line per method, the longest length, and quality by position."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

BASELINE = "vanilla"


@dataclass(frozen=True)
class Table:
    """A table of text: title, columns, lines."""

    title: str
    columns: list[str]
    lines: list[list[str]]


def summarise(frame: pd.DataFrame) -> list[Table]:
    """The tables that a set of rows gives: speed, memory, one per quality task, and what failed."""
    tables = [*_speed(frame), *_memory(frame), *_quality(frame), *_failures(frame)]
    return [table for table in tables if table.lines]


def _speed(frame: pd.DataFrame) -> Iterator[Table]:
    times = frame[(frame["measure"] == "speed") & frame["metric"].str.endswith("_ms")]
    for phase in times["phase"].unique():
        yield _by_length(times[times["phase"] == phase], f"{phase}: ms (ratio to {BASELINE})", _time)


def _memory(frame: pd.DataFrame) -> Iterator[Table]:
    memory = frame[frame["measure"] == "memory"]
    peaks = memory[memory["metric"] == "peak_bytes"]
    for phase in ("train", "prefill"):
        yield _by_length(peaks[peaks["phase"] == phase], f"{phase}: peak MiB", _mebibytes)
    yield _by_length(memory[memory["metric"] == "state_bytes"], "state: KiB after T tokens", _kibibytes)


def _quality(frame: pd.DataFrame) -> Iterator[Table]:
    quality = frame[(frame["measure"] == "quality") & ~frame["metric"].str.contains("_depth_")]
    titles = {"bits_per_byte": "bits per byte by position (± 95%)", "accuracy": "accuracy (± 95%)"}
    for phase in quality["phase"].unique():
        rows = quality[quality["phase"] == phase]
        metric = next((m for m in rows["metric"] if m), "")
        yield _by_length(rows[rows["metric"] == metric], f"{phase}: {titles.get(metric, metric)}", _share)


def _failures(frame: pd.DataFrame) -> Iterator[Table]:
    failed = frame[frame["status"] != "ok"]
    lines = [
        [str(r.method), f"{r.measure} {r.phase}", str(r.T or ""), str(r.status), str(r.reason)]
        for r in failed.itertuples()
    ]
    yield Table("not measured", ["method", "cell", "T", "status", "reason"], lines)


def _by_length(rows: pd.DataFrame, title: str, show: Callable[[Any, Any], str]) -> Table:
    rows = rows[rows["value"].notna()]
    lengths = sorted(rows["T"].unique())
    values = {(row.method, row.T): row for row in rows.itertuples()}
    lines = [
        [str(method), *(show(values.get((method, T)), values.get((BASELINE, T))) for T in lengths)]
        for method in rows["method"].unique()
    ]
    return Table(title, ["method", *(f"T={T}" for T in lengths)], lines)


def _time(row: Any, baseline: Any) -> str:
    if row is None:
        return "–"
    return f"{row.value:.3g}" + (f" ({baseline.value / row.value:.2f}x)" if baseline is not None else "")


def _mebibytes(row: Any, baseline: Any) -> str:
    return "–" if row is None else f"{row.value / 2**20:.4g}"


def _kibibytes(row: Any, baseline: Any) -> str:
    return "–" if row is None else f"{row.value / 2**10:.4g}"


def _share(row: Any, baseline: Any) -> str:
    return "–" if row is None else f"{row.value:.3f} ± {(row.high - row.low) / 2:.3f}"
