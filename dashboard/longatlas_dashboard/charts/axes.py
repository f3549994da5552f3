"""Axes and scales: round ticks, lengths and bytes in words, and the channels that bind a method's looks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from longatlas.words import BASELINE
from longatlas_dashboard.theme import DASHES, SHAPES, Theme, styles_of

LENGTH_LABEL = (
    "datum.value >= 1048576 && datum.value % 1048576 == 0 ? datum.value / 1048576 + 'M' : "
    "datum.value >= 1024 && datum.value % 1024 == 0 ? datum.value / 1024 + 'K' : '' + datum.value"
)
BYTES_LABEL = (
    "datum.value >= 1073741824 ? format(datum.value / 1073741824, '.3~g') + ' GiB' : "
    "datum.value >= 1048576 ? format(datum.value / 1048576, '.3~g') + ' MiB' : "
    "datum.value >= 1024 ? format(datum.value / 1024, '.3~g') + ' KiB' : datum.value + ' B'"
)
NUMBER_LABEL = "format(datum.value, datum.value >= 1000 ? '.3~s' : '.3~g')"
LEGEND_LETTER, LEGEND_SYMBOL = 6.5, 34  # pixels of a letter, and of a symbol with its margins


def in_order(order: Sequence[str], *frames: pd.DataFrame) -> list[str]:
    """The specs of the frames: vanilla first, then in the catalog's order."""
    place = {name: number for number, name in enumerate(order)}
    found = {name for frame in frames for name in frame["method"]}
    first = {name: name.partition("+")[0].partition(":")[0] for name in found}
    return sorted(found, key=lambda s: (s != BASELINE, place.get(first[s], len(place)), s))


def ticks(low: float, high: float, unit: str) -> list[float]:
    """Round values for a logarithmic axis, at most eight: powers of two for bytes, else 1-2-5 or finer.

    [] where fewer than two lie within, so that the axis chooses its own.
    """
    if not 0 < low <= high:
        return []
    steps = [(1,)] if unit == "bytes" else [(1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)]
    base = 2 if unit == "bytes" else 10
    powers = range(math.floor(math.log(low, base)), math.ceil(math.log(high, base)) + 1)
    for chosen in steps:
        inside = [step * float(base) ** power for power in powers for step in chosen]
        inside = [value for value in inside if low / 1.01 <= value <= high * 1.01]
        if len(inside) >= 3 or (len(inside) == 2 and chosen is steps[-1]) or (inside and high < low * 1.01):
            return inside[:: math.ceil(len(inside) / 8)]
    return []


def positive(frame: pd.DataFrame, *names: str) -> pd.DataFrame:
    """The rows that a logarithmic axis can show: finite values above 0; such ends of intervals are taken out."""
    numbers = frame[list(names)].astype(float)
    shown = frame[((numbers > 0) & np.isfinite(numbers)).all(axis=1)]
    ends = {name: shown[name].astype(float) for name in ("low", "high") if name in shown}
    return shown.assign(**{name: end.where((end > 0) & np.isfinite(end)) for name, end in ends.items()})


def value_axis(field: str, title: str, unit: str, values: pd.Series, *, padding: int, top: int = 0) -> dict[str, Any]:
    """Scale and axis of a logarithmic value channel; `top` pixels above it stay free."""
    label = BYTES_LABEL if unit == "bytes" else NUMBER_LABEL
    shown = ticks(float(values.min()), float(values.max()), unit) if len(values) else []
    return {
        "shorthand": f"{field}:Q",
        "scale": alt.Scale(
            type="log", nice=False, padding=padding, range=[alt.ExprRef("height"), top] if top else alt.Undefined
        ),
        "axis": alt.Axis(title=title, labelExpr=label, values=shown or alt.Undefined, tickCount=5),
    }


def length_axis(lengths: list[int], title: str = "T, tokens") -> alt.X:
    return alt.X(
        "T:Q",
        scale=alt.Scale(type="log", base=2, nice=False, padding=18),
        axis=alt.Axis(title=title, values=lengths, labelExpr=LENGTH_LABEL, labelOverlap="greedy"),
    )


def by_method(
    methods: list[str], theme: Theme, order: Sequence[str], *, dash: bool, shape: bool = True
) -> dict[str, Any]:
    """Colour, shape and dash channels over the same domain; colour and shape share one legend."""
    styles = styles_of(methods, order)
    legend = _legend(max(map(len, methods), default=0))
    colours = [theme.palette[s.colour] for s in styles]
    channels: dict[str, Any] = {
        "color": alt.Color("method:N", scale=alt.Scale(domain=methods, range=colours), legend=legend)
    }
    if shape:
        shapes = alt.Scale(domain=methods, range=[SHAPES[s.shape] for s in styles])
        channels["shape"] = alt.Shape("method:N", scale=shapes, legend=legend)
    if dash:
        dashes = alt.Scale(domain=methods, range=[list(DASHES[s.dash]) for s in styles])
        channels["strokeDash"] = alt.StrokeDash("method:N", scale=dashes, legend=None)
    return channels


def _legend(letters: int) -> alt.Legend:
    """A legend below the plot: two columns where names of so many letters find room beside each other."""
    room = 2 * (LEGEND_LETTER * letters + LEGEND_SYMBOL)
    return alt.Legend(
        title=None,
        orient="bottom",
        columns=alt.ExprRef(f"width < {room:.0f} ? 1 : 2"),
        labelLimit=alt.ExprRef(f"width - {LEGEND_SYMBOL}"),
        symbolOpacity=1,
    )


def intervals(x: alt.X, ends: tuple[str, str], scale: Any, colour: alt.Color) -> alt.Chart:
    """A thin line from the low end of each interval to the high one, where there is an interval."""
    low, high = ends
    here = alt.Chart().transform_filter(f"isValid(datum.{low}) && isValid(datum.{high})")
    y = alt.Y(f"{low}:Q", scale=scale)
    return here.mark_rule(strokeWidth=1.5, opacity=0.7, aria=False).encode(
        x=x, y=y, y2=alt.Y2(f"{high}:Q"), color=colour
    )
