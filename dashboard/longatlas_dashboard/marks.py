"""Words and numbers as charts and tables show them: bytes, milliseconds, lengths, statuses."""

from __future__ import annotations

import math

# status -> (glyph, words); the glyph stands in the grid of cells, so that colour is never alone.
STATUSES = {
    "ok": ("✓", "measured"),
    "running": ("▶", "being measured"),
    "waiting": ("–", "not yet measured"),
    "oom": ("M", "out of memory"),
    "timeout": ("T", "out of time"),
    "crash": ("C", "crashed"),
    "unsupported": ("U", "unsupported here"),
    "incorrect": ("I", "differs from its reference"),
    "skipped": ("S", "skipped: a shorter one already failed"),
}


def length_text(tokens: float) -> str:
    """1024 -> "1K", 1048576 -> "1M"; other numbers as they are."""
    for size, letter in ((1 << 20, "M"), (1 << 10, "K")):
        if tokens >= size and tokens % size == 0:
            return f"{int(tokens // size)}{letter}"
    return f"{tokens:.0f}" if tokens == int(tokens) else _digits(tokens)


def value_text(value: float | None, unit: str) -> str:
    """A measured value with its unit, three significant digits."""
    if value is None or math.isnan(value):
        return ""
    if unit == "bytes":
        return bytes_text(value)
    if unit == "ms" and abs(value) >= 1000:
        return f"{_digits(value / 1000)} s"
    return f"{_digits(value)} {unit}".strip()


def bytes_text(value: float) -> str:
    for size, word in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if abs(value) >= size:
            return f"{_digits(value / size)} {word}"
    return f"{value:.0f} B"


def interval_text(low: float | None, high: float | None, unit: str) -> str:
    """ "1.2 to 1.4 ms", or "" without an interval."""
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return ""
    return f"{value_text(low, unit)} to {value_text(high, unit)}"


def duration_text(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def exponent_text(exponent: float, low: float | None, high: float | None) -> str:
    """ "T^1.02 (0.98 to 1.06)"."""
    text = f"T^{exponent:.2f}"
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return text
    return f"{text} ({low:.2f} to {high:.2f})"


def _digits(value: float) -> str:
    """Three significant digits, and never a power of ten where a reader expects a number."""
    if abs(value) >= 999.5:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-4 or not value else f"{value:.2e}"
