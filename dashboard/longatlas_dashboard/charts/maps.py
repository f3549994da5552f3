"""Fields of boxes: the taxonomy, the cells of a plan, accuracy by depth, influence of inputs on outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import altair as alt
import pandas as pd

from longatlas_dashboard import marks
from longatlas_dashboard.charts.layers import layered
from longatlas_dashboard.theme import Theme

# Columns of a grid of cells that all get their words; of more, only those that find room.
GRID_COLUMNS = 32
# Shares of less than a ten-thousandth look alike.
INFLUENCE_FLOOR = -4
INFLUENCE_SIDE = 290  # pixels, about: a narrow screen shows it whole


def depth_map(frame: pd.DataFrame, *, theme: Theme) -> alt.LayerChart:
    """Accuracy by depth and T as a heat map on the fixed scale 0 to 1, with the value in each cell.

    frame  rows of one method with T, depth, value, n
    """
    data = frame[["T", "depth", "value", "n"]].assign(
        length=[marks.length_text(t) for t in frame["T"]], percent=[f"{v:.0%}" for v in frame["value"]]
    )
    x = alt.X("length:O", sort=alt.EncodingSortField("T"), axis=alt.Axis(title="T, tokens", labelAngle=0))
    y = alt.Y("depth:O", axis=alt.Axis(title=f"depth, 0 = beginning, {frame['depth'].max()} = end"))
    told = [alt.Tooltip(name) for name in ("T:Q", "depth:O", "percent:N", "n:Q")]
    base = alt.Chart().encode(x=x, y=y)
    boxes = base.mark_rect(stroke=theme.background).encode(
        color=alt.Color("value:Q", scale=alt.Scale(scheme="viridis", domain=[0, 1]), legend=None), tooltip=told
    )
    ink = alt.condition("datum.value > 0.6", alt.value("#000000"), alt.value("#FFFFFF"))
    words = base.mark_text(fontSize=11).encode(text=alt.Text("percent:N"), color=ink)
    return layered([boxes, words], theme, data, height=alt.Step(20))


def cell_grid(frame: pd.DataFrame, *, theme: Theme) -> alt.LayerChart:
    """The cells of a plan, methods down and measurements across, each with the glyph of its status.

    frame  columns method, column, status, label
    """
    colours = {"ok": theme.good, "running": theme.link, "waiting": theme.border}
    data = frame.assign(
        glyph=[marks.STATUSES.get(status, ("?", status))[0] for status in frame["status"]],
        words=[marks.STATUSES.get(status, ("?", status))[1] for status in frame["status"]],
        colour=[colours.get(status, theme.bad) for status in frame["status"]],
        strength=[0.12 if status == "waiting" else 0.32 for status in frame["status"]],
    )
    columns = list(dict.fromkeys(data["column"]))
    overlap = "greedy" if len(columns) > GRID_COLUMNS else False
    axis = alt.Axis(title=None, orient="top", labelAngle=-60, labelLimit=150, labelOverlap=overlap)
    x = alt.X("column:N", sort=columns, axis=axis)
    y = alt.Y("method:N", sort=list(dict.fromkeys(data["method"])), axis=alt.Axis(title=None, labelLimit=200))
    told = [alt.Tooltip("label:N", title="cell"), alt.Tooltip("words:N", title="status")]
    base = alt.Chart().encode(x=x, y=y)
    boxes = base.mark_rect(cornerRadius=2, stroke=theme.background, strokeWidth=2).encode(
        color=alt.Color("colour:N", scale=None),
        fillOpacity=alt.FillOpacity("strength:Q", scale=None),
        tooltip=told,
        description=alt.Description("label:N"),
    )
    glyphs = base.mark_text(color=theme.text, fontSize=11).encode(text=alt.Text("glyph:N"))
    return layered([boxes, glyphs], theme, data, height=alt.Step(22))


def influence_map(relative: Sequence[Sequence[float]], *, theme: Theme) -> alt.LayerChart:
    """Influence of token j (across) on output i (down), each row relative to its largest; none is blank. Squares.

    relative  [n][n], 0 to 1
    """
    data = pd.DataFrame(
        [
            {"i": i, "j": j, "value": value, "decade": max(math.log10(value), INFLUENCE_FLOOR)}
            for i, row in enumerate(relative)
            for j, value in enumerate(row)
            if value > 0
        ],
        columns=["i", "j", "value", "decade"],
    )
    size = len(relative)
    shown = list(range(0, size, max(1, size // 8)))
    places = list(range(size))
    x = alt.X("j:O", scale=alt.Scale(domain=places), axis=alt.Axis(title="input j", values=shown, labelAngle=0))
    y = alt.Y("i:O", scale=alt.Scale(domain=places), axis=alt.Axis(title="output i", values=shown))
    range_ = [theme.surface_strong, theme.palette[0]]
    legend = alt.Legend(
        title="share of the row's largest", orient="bottom", labelExpr="format(pow(10, datum.value), '.0%')",
        values=[INFLUENCE_FLOOR, INFLUENCE_FLOOR / 2, 0], gradientLength=160,
    )  # fmt: skip
    made = (
        alt.Chart()
        .mark_rect()
        .encode(
            x=x,
            y=y,
            color=alt.Color("decade:Q", scale=alt.Scale(domain=[INFLUENCE_FLOOR, 0], range=range_), legend=legend),
            tooltip=[alt.Tooltip("i:O"), alt.Tooltip("j:O"), alt.Tooltip("value:Q", format=".3g", title="share")],
        )
    )
    side = alt.Step(max(4, INFLUENCE_SIDE // size))
    return layered([made], theme, data, height=side, width=side)


def icicle(frame: pd.DataFrame, *, chosen: str, theme: Theme) -> alt.LayerChart:
    """The taxonomy as an icicle, root at the left; a click gives the selection `node` with the field `path`.

    frame   from tree.icicle_frame: path, title, label, spoken, depth, start, end, family, ready
    chosen  path that is marked
    """
    depth = int(frame["depth"].max()) + 1
    row = 19
    families = list(dict.fromkeys(frame["family"]))
    pick = alt.selection_point(name="node", fields=["path"], on="click", toggle=False)
    data = frame.assign(
        right=frame["depth"] + 1 - 0.004,
        bottom=frame["end"] - 0.08,
        text_x=frame["depth"] + 0.012,
        middle=(frame["start"] + frame["end"]) / 2,
        chosen=frame["path"] == chosen,
        strength=[0.34 if ready else 0.13 for ready in frame["ready"]],
    )
    x = alt.X("depth:Q", scale=alt.Scale(domain=[0, depth], nice=False), axis=None)
    y = alt.Y("start:Q", scale=alt.Scale(domain=[0, float(frame["end"].max())], reverse=True), axis=None)
    boxes = (
        alt.Chart()
        .mark_rect(cornerRadius=2, cursor="pointer", strokeWidth=2)
        .encode(
            x=x,
            x2=alt.X2("right:Q"),
            y=y,
            y2=alt.Y2("bottom:Q"),
            color=alt.Color(
                "family:N",
                scale=alt.Scale(domain=families, range=[theme.palette[i % 6] for i in range(len(families))]),
                legend=None,
            ),
            fillOpacity=alt.FillOpacity("strength:Q", scale=None, legend=None),
            stroke=alt.condition("datum.chosen", alt.value(theme.text), alt.value("transparent")),
            tooltip=[alt.Tooltip("title:N", title="node"), alt.Tooltip("spoken:N", title="papers")],
            description=alt.Description("spoken_name:N"),
        )
        .add_params(pick)
    )
    room = alt.ExprRef(f"width / {depth} - 8")
    words = (
        alt.Chart()
        .mark_text(align="left", baseline="middle", fontSize=12, color=theme.text, limit=room)
        .encode(x=alt.X("text_x:Q"), y=alt.Y("middle:Q"), text=alt.Text("label:N"))
    )
    height = int(frame["end"].max()) * row
    return layered([boxes, words], theme, data, height=height)
