"""Quality against cost, with the frontier of what no other method beats in both."""

from __future__ import annotations

import math
from collections.abc import Sequence

import altair as alt
import pandas as pd

from longatlas_dashboard import marks
from longatlas_dashboard.charts.axes import by_method, in_order, intervals, positive, value_axis
from longatlas_dashboard.charts.layers import layered
from longatlas_dashboard.theme import Theme

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
    middle = math.sqrt(points["cost"].min() * points["cost"].max())
    names = []
    # Only the frontier is named, above and below in turn: the names of all would lie over each other.
    for place, name in enumerate(frontier["method"]):
        own = data[data["method"] == name]
        right = bool((own["cost"] > middle).any())
        mark = alt.Chart(own).mark_text(
            align="right" if right else "left", dx=-9 if right else 9, dy=(-10, 12)[place % 2], color=theme.muted
        )
        names.append(mark.encode(x=x, y=y, text=alt.Text("method:N")))
    return layered([step.encode(x=x, y=y), joined, spread, dots, *names], theme, data)


def _to_the_edges(frontier: pd.DataFrame, points: pd.DataFrame, worst: str) -> pd.DataFrame:
    """The frontier's line, drawn on to the worst quality and the highest cost among the points."""
    line = frontier[["cost", "quality"]].astype(float)
    if line.empty:
        return line
    start = pd.DataFrame({"cost": [line["cost"].iloc[0]], "quality": [float(points["quality"].agg(worst))]})
    end = pd.DataFrame({"cost": [float(points["cost"].max())], "quality": [line["quality"].iloc[-1]]})
    return pd.concat([start, line, end])
