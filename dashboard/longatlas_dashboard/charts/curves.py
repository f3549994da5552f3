"""Curves against T, a line for each method: time, memory, and quality by position or length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from longatlas_dashboard import marks
from longatlas_dashboard.charts.axes import by_method, in_order, intervals, length_axis, positive, value_axis
from longatlas_dashboard.charts.layers import HEIGHT, layered
from longatlas_dashboard.theme import Theme, style_of

# Height of the strip above a plot for the failed cells of one method.
FAILED_STEP = 14


def scaling(
    frame: pd.DataFrame,
    failed: pd.DataFrame,
    *,
    title: str,
    unit: str,
    theme: Theme,
    order: Sequence[str],
    references: pd.DataFrame | None = None,
    formula: pd.DataFrame | None = None,
) -> alt.LayerChart:
    """Values against T, both axes logarithmic, with intervals; failed cells stand as marks at the top edge.

    frame       rows with method, T, value, low, high, n
    failed      rows with method, T, status, reason
    order       names of the catalog's methods, which binds colours
    references  two points (T, value) of each line of a `power` of T
    formula     rows with method, T, value that are computed and not measured: crosses on the lines
    """
    methods = in_order(order, frame, failed)
    frame = positive(frame, "value")
    lengths = sorted({int(t) for t in [*frame["T"], *failed["T"]] if t > 0})
    x = length_axis(lengths)
    spread = pd.concat([frame["value"], frame["low"], frame["high"]]).dropna().astype(float)
    top = FAILED_STEP * failed["method"].nunique()
    y = alt.Y(**value_axis("value", title, unit, spread, padding=14, top=top))
    data = _told(frame, unit)
    layers: list[Any] = [
        *_curves(x, y, y["scale"], methods, theme, order),
        *_failed_marks(failed, methods, x, theme, order),
    ]
    if formula is not None and len(formula):
        computed = alt.Chart(formula[["method", "T", "value"]])
        crosses = computed.mark_text(text="×", fontSize=14, color=theme.text).encode(
            x=x, y=y, tooltip=[alt.Tooltip("method:N"), alt.Tooltip("T:Q"), alt.Tooltip("value:Q")]
        )
        layers.append(crosses)
    if references is not None and len(references):
        layers = [*_reference_lines(references, spread, x, y, theme), *layers]
    return layered(layers, theme, data, height=HEIGHT + top)


def buckets(
    frame: pd.DataFrame,
    *,
    title: str,
    theme: Theme,
    order: Sequence[str],
    length_title: str = "T, tokens",
    share: bool = False,
) -> alt.LayerChart:
    """A quality metric against T (position bucket or length), x logarithmic.

    share  the metric lies between 0 and 1, and so does the axis; else the axis follows the data
    """
    methods = in_order(order, frame)
    x = length_axis(sorted({int(t) for t in frame["T"]}), title=length_title)
    scale = alt.Scale(domain=[0, 1]) if share else alt.Scale(zero=False, padding=14)
    y = alt.Y("value:Q", scale=scale, axis=alt.Axis(title=title, tickCount=6))
    return layered(_curves(x, y, scale, methods, theme, order), theme, _told(frame, ""))


def _reference_lines(references: pd.DataFrame, spread: pd.Series, x: alt.X, y: alt.Y, theme: Theme) -> list[Any]:
    """Thin dotted lines of T^p with their names at the far end, as far as they lie within what is measured."""
    layers: list[Any] = []
    low, high = float(spread.min()), float(spread.max())
    for power, line in references.groupby("power"):
        (t0, v0), (t1, v1) = line.sort_values("T")[["T", "value"]].to_numpy(float)
        if power and t1 > t0:
            end = high if power > 0 else low
            t1 = min(t1, t0 * (end / v0) ** (1 / power))
            v1 = v0 * (t1 / t0) ** power
        name = {0: "T^0", 1: "T"}.get(power, f"T^{power:g}")
        data = pd.DataFrame({"T": [t0, t1], "value": [v0, v1], "name": ["", name]})
        base = alt.Chart(data).encode(x=x, y=y)
        layers += [
            base.mark_line(color=theme.muted, strokeDash=[1, 4], strokeWidth=1.5),
            base.mark_text(align="right", dx=-4, dy=-7, fontSize=11, color=theme.muted).encode(text=alt.Text("name:N")),
        ]
    return layers


def _curves(x: alt.X, y: alt.Y, scale: Any, methods: list[str], theme: Theme, order: Sequence[str]) -> list[alt.Chart]:
    """Each method's line, intervals and points, of data as _told gives them."""
    lines = alt.Chart().mark_line(strokeWidth=2)
    lines = lines.encode(x=x, y=y, **by_method(methods, theme, order, dash=True, shape=False))
    points = alt.Chart().mark_point(size=70, filled=True, opacity=1)
    points = points.encode(
        x=x,
        y=y,
        tooltip=_tooltips("method", "T", "shown", "interval", "n"),
        description=alt.Description("spoken:N"),
        **by_method(methods, theme, order, dash=False),
    )
    return [lines, intervals(x, ("low", "high"), scale, points.encoding["color"]), points]


def _failed_marks(failed: pd.DataFrame, methods: list[str], x: alt.X, theme: Theme, order: Sequence[str]) -> list[Any]:
    """A cross above the plot for each cell without a number, one height per method, named by its status."""
    layers: list[Any] = []
    least = failed["T"].min()
    for place, name in enumerate(dict.fromkeys(failed["method"])):
        rows = failed[failed["method"] == name]
        told = [f"{name}, T = {t}: {s}" for t, s in zip(rows["T"], rows["status"], strict=True)]
        rows = rows.assign(told=told)
        colour = theme.palette[style_of(name, order).colour]
        top = alt.YValue(FAILED_STEP * place)
        rows = rows[["method", "T", "status", "reason", "told"]]
        base = alt.Chart(rows).encode(x=x, y=top)
        # The words stand left of the cross, but not over the axis.
        sides = ((rows["T"] > least, "right", -9), (rows["T"] == least, "left", 9))
        layers += [
            base.mark_text(fontSize=14, fontWeight="bold", color=colour).encode(
                text=alt.TextValue("✕"),
                tooltip=_tooltips("method", "T", "status", "reason"),
                description=alt.Description("told:N"),
            ),
            *(
                alt.Chart(rows[chosen])
                .mark_text(align=align, dx=dx, fontSize=11, color=theme.text)
                .encode(x=x, y=top, text=alt.Text("status:N"))
                for chosen, align, dx in sides
                if chosen.any()
            ),
        ]
    return layers


def _told(frame: pd.DataFrame, unit: str) -> pd.DataFrame:
    """Plottable columns, with the words for tooltips and screen readers; no object columns besides."""
    data = frame[[c for c in ("method", "T", "value", "low", "high", "n") if c in frame.columns]].copy()
    data["shown"] = [marks.value_text(value, unit) for value in frame["value"]]
    data["interval"] = [
        marks.interval_text(low, high, unit) for low, high in zip(frame["low"], frame["high"], strict=True)
    ]
    data["spoken"] = [
        f"{name}, T = {length}: {shown}"
        for name, length, shown in zip(data["method"], data["T"], data["shown"], strict=True)
    ]
    return data.astype({"low": "float64", "high": "float64"})


def _tooltips(*names: str) -> list[alt.Tooltip]:
    titles = {"shown": "value", "interval": "interval"}
    kinds = {"T": "Q", "n": "Q"}
    return [alt.Tooltip(f"{name}:{kinds.get(name, 'N')}", title=titles.get(name, name)) for name in names]
