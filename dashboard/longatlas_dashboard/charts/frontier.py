"""Quality against cost, with the frontier of what no other method beats in both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import altair as alt
import numpy as np
import pandas as pd

from longatlas_dashboard import marks
from longatlas_dashboard.charts.axes import by_method, in_order, intervals, positive, value_axis
from longatlas_dashboard.charts.layers import layered
from longatlas_dashboard.theme import Theme

Box = tuple[float, float, float, float]  # left, right, top, bottom in pixels
PLOT = (760, 340)  # width and height for which names are placed
LETTER = 6.5  # pixels of a letter
# What follows the names in a spec.
_OPTIONS = r":[^+]*"


def trade_off(
    points: pd.DataFrame,
    frontier: pd.DataFrame,
    *,
    cost_title: str,
    quality_title: str,
    unit: str,
    theme: Theme,
    order: Sequence[str],
    quality_less: bool = True,
) -> alt.LayerChart:
    """Quality against cost with the Pareto frontier as a stepped line; options of one method are joined.

    points, frontier  rows with method, cost, quality (and *_low, *_high), as analysis.trade_off gives them
    quality_less      less is better; else more
    """
    points, frontier = positive(points, "cost"), positive(frontier, "cost")
    methods = in_order(order, points)
    x = alt.X(**value_axis("cost", cost_title, unit, points["cost"], padding=36))
    y = alt.Y("quality:Q", scale=alt.Scale(zero=False, padding=24), axis=alt.Axis(title=quality_title, tickCount=6))
    data = points.assign(
        base=points["method"].str.replace(_OPTIONS, "", regex=True),
        told_cost=[marks.value_text(v, unit) for v in points["cost"]],
        told_quality=[f"{v:.3f}" for v in points["quality"]],
    )
    step = alt.Chart(_to_the_edges(frontier, points, "max" if quality_less else "min")).mark_line(
        interpolate="step-after", color=theme.muted, strokeDash=[5, 4], strokeWidth=1.5
    )
    joined = alt.Chart().mark_line(strokeWidth=1, color=theme.border).encode(x=x, y=y, detail=alt.Detail("base:N"))
    dots = alt.Chart().encode(x=x, y=y, **by_method(methods, theme, order, dash=False))
    spread = intervals(x, ("quality_low", "quality_high"), y["scale"], dots.encoding["color"])
    dots = dots.mark_point(size=110, filled=True, opacity=1).encode(
        tooltip=[
            alt.Tooltip("method:N", title="method"),
            alt.Tooltip("told_cost:N", title=cost_title),
            alt.Tooltip("told_quality:N", title=quality_title),
        ]
    )
    names = [
        alt.Chart(data[data["method"] == name])
        .mark_text(align=align, dx=dx, dy=dy, color=theme.muted)
        .encode(x=x, y=y, text=alt.Text("method:N"))
        for name, align, dx, dy in _places(frontier, points)
    ]
    return layered([step.encode(x=x, y=y), joined, spread, dots, *names], theme, data, height=PLOT[1])


def _to_the_edges(frontier: pd.DataFrame, points: pd.DataFrame, worst: str) -> pd.DataFrame:
    """The frontier's line, drawn on to the worst quality and the highest cost among the points."""
    line = frontier[["cost", "quality"]].astype(float)
    if line.empty:
        return line
    start = pd.DataFrame({"cost": [line["cost"].iloc[0]], "quality": [float(points["quality"].agg(worst))]})
    end = pd.DataFrame({"cost": [float(points["cost"].max())], "quality": [line["quality"].iloc[-1]]})
    return pd.concat([start, line, end])


def _places(frontier: pd.DataFrame, points: pd.DataFrame) -> list[tuple[str, str, int, int]]:
    """Method, align, dx and dy of the frontier's names; one that would lie over others is left to the legend."""
    width, height = PLOT
    ends = points[["quality", "quality_low", "quality_high"]].to_numpy(float)
    costs = np.log(points["cost"].to_numpy(float))

    def share(value: float, among: np.ndarray) -> float:
        low, high = np.nanmin(among), np.nanmax(among)
        return (value - low) / (high - low) if high > low else 0.5

    def pixel(cost: float, quality: float) -> tuple[float, float]:
        return share(math.log(cost), costs) * width, (1 - share(quality, ends)) * height

    spots = [pixel(cost, quality) for cost, quality in zip(points["cost"], points["quality"], strict=True)]
    taken = [(x - 6, x + 6, y - 6, y + 6) for x, y in spots]
    found = []
    for row in frontier.itertuples():
        x, y = pixel(row.cost, row.quality)
        length = LETTER * len(str(row.method))
        for dy, right in product((-10, 12, -24, 26, -38, 40), (False, True)):
            start = x - 9 - length if right else x + 9
            box = (start, start + length, y + dy - 7, y + dy + 7)
            if box[0] >= 0 and box[1] <= width and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                found.append((str(row.method), "right" if right else "left", -9 if right else 9, dy))
                break
    return found


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[1] and other[0] < one[1] and one[2] < other[3] and other[2] < one[3]
