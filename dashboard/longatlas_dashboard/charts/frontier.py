"""Quality against cost, with the frontier of what no other method beats in both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
LETTER, SPOT = 6.5, 6  # pixels: width of a letter, half of a point
ROWS = (-10, 12, -24, 26, -38, 40)  # heights at which a name may stand, from its point
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


def _places(frontier: pd.DataFrame, points: pd.DataFrame) -> Iterator[tuple[str, str, int, int]]:
    """Method, align, dx and dy of the frontier's names; one that would lie over others is left to the legend."""
    spots = dict(zip(points["method"], _pixels(points), strict=True))
    taken = [(x - SPOT, x + SPOT, y - SPOT, y + SPOT) for x, y in spots.values()]
    for name in frontier["method"]:
        for align, dx, dy in product(("left", "right"), (SPOT + 3,), ROWS):
            box = _box(name, *spots[name], align, dx, dy)
            if not any(_overlap(box, other) for other in taken) and box[0] >= 0 and box[1] <= PLOT[0]:
                taken.append(box)
                yield name, align, dx if align == "left" else -dx, dy
                break


def _pixels(points: pd.DataFrame) -> np.ndarray:
    """About where each point is drawn, from the plot's upper left. [points, 2]"""
    costs = np.log(points[["cost"]].to_numpy(float))
    ends = points[["quality", "quality_low", "quality_high"]].to_numpy(float)
    across, down = _shares(costs), 1 - _shares(ends)
    return np.stack([across[:, 0] * PLOT[0], down[:, 0] * PLOT[1]], axis=1)


def _shares(values: np.ndarray) -> np.ndarray:
    """Where values lie between the least and the greatest of them, 0 to 1; half-way where all are the same."""
    low, high = np.nanmin(values), np.nanmax(values)
    return (values - low) / (high - low) if high > low else np.full_like(values, 0.5)


def _box(name: str, x: float, y: float, align: str, dx: int, dy: int) -> Box:
    length = LETTER * len(name)
    left = x + dx if align == "left" else x - dx - length
    return left, left + length, y + dy - 7, y + dy + 7


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[1] and other[0] < one[1] and one[2] < other[3] and other[2] < one[3]
