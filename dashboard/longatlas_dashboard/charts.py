"""Every chart of the dashboard: a frame goes in, an Altair chart comes out. Nothing here knows Streamlit.

Encodings are given as objects: of a mere string Altair finds the class by a walk through its schema, which takes longer
than all else of a chart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from longatlas_dashboard import marks
from longatlas_dashboard.theme import DASHES, SHAPES, Theme, chart_config, style_of

HEIGHT = 340
# Height of the strip above a plot for the failed cells of one method.
FAILED_STEP = 14
# Columns of a grid of cells that all get their words; of more, only those that find room.
GRID_COLUMNS = 32
LENGTH_LABEL = (
    "datum.value >= 1048576 && datum.value % 1048576 == 0 ? datum.value / 1048576 + 'M' : "
    "datum.value >= 1024 && datum.value % 1024 == 0 ? datum.value / 1024 + 'K' : '' + datum.value"
)
BYTES_LABEL = (
    "datum.value >= 1073741824 ? format(datum.value / 1073741824, '.3~g') + ' GiB' : "
    "datum.value >= 1048576 ? format(datum.value / 1048576, '.3~g') + ' MiB' : "
    "datum.value >= 1024 ? format(datum.value / 1024, '.3~g') + ' KiB' : datum.value + ' B'"
)
# Shares of less than a ten-thousandth look alike.
INFLUENCE_FLOOR = -4
LEGEND_COLUMNS = "width < 360 ? 1 : 2"
# What follows the names in a spec.
_OPTIONS = r":[^+]*"
NUMBER_LABEL = "format(datum.value, datum.value >= 1000 ? '.3~s' : '.3~g')"


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
    frame = _positive(frame, "value")
    lengths = sorted({int(t) for t in [*frame["T"], *failed["T"]] if t > 0})
    x = _length_axis(lengths)
    spread = pd.concat([frame["value"], frame["low"], frame["high"]]).dropna().astype(float)
    top = FAILED_STEP * failed["method"].nunique()
    y = alt.Y(**_value_axis("value", title, unit, spread, padding=14, top=top))
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
    return _layered(layers, theme, data, height=HEIGHT + top)


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
    x = _length_axis(sorted({int(t) for t in frame["T"]}), title=length_title)
    scale = alt.Scale(domain=[0, 1]) if share else alt.Scale(zero=False, padding=14)
    y = alt.Y("value:Q", scale=scale, axis=alt.Axis(title=title, tickCount=6))
    return _layered(_curves(x, y, scale, methods, theme, order), theme, _told(frame, ""))


def depth_map(frame: pd.DataFrame, *, theme: Theme) -> alt.LayerChart:
    """Accuracy by depth and T as a heat map on the fixed scale 0 to 1, with the value in each cell.

    frame  rows of one method with T, depth, value, n
    """
    data = frame[["T", "depth", "value", "n"]].assign(
        length=[marks.length_text(t) for t in frame["T"]], percent=[f"{v:.0%}" for v in frame["value"]]
    )
    x = alt.X("length:O", sort=alt.EncodingSortField("T"), axis=alt.Axis(title="T, tokens", labelAngle=0))
    y = alt.Y("depth:O", axis=alt.Axis(title="depth, tenths of the text"))
    told = [alt.Tooltip(name) for name in ("T:Q", "depth:O", "percent:N", "n:Q")]
    base = alt.Chart().encode(x=x, y=y)
    boxes = base.mark_rect(stroke=theme.background).encode(
        color=alt.Color("value:Q", scale=alt.Scale(scheme="viridis", domain=[0, 1]), legend=None), tooltip=told
    )
    ink = alt.condition("datum.value > 0.6", alt.value("#000000"), alt.value("#FFFFFF"))
    words = base.mark_text(fontSize=11).encode(text=alt.Text("percent:N"), color=ink)
    return _layered([boxes, words], theme, data, height=alt.Step(20))


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
    points, frontier = _positive(points, "cost"), _positive(frontier, "cost")
    methods = in_order(order, points)
    x = alt.X(**_value_axis("cost", cost_title, unit, points["cost"], padding=36))
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
    dots = alt.Chart().encode(x=x, y=y, **_by_method(methods, theme, order, dash=False))
    spread = _intervals(x, ("quality_low", "quality_high"), y["scale"], dots.encoding["color"])
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
    return _layered([step.encode(x=x, y=y), joined, spread, dots, *names], theme, data)


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
    return _layered([boxes, words], theme, data, height=height)


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
    return _layered([boxes, glyphs], theme, data, height=alt.Step(22))


def influence_map(relative: Sequence[Sequence[float]], *, theme: Theme) -> alt.LayerChart:
    """Influence of token j (across) on output i (down), each row relative to its largest; blank is none at all.

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
    return _layered([made], theme, data)


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
    lines = lines.encode(x=x, y=y, **_by_method(methods, theme, order, dash=True, shape=False))
    points = alt.Chart().mark_point(size=70, filled=True, opacity=1)
    points = points.encode(
        x=x,
        y=y,
        tooltip=_tooltips("method", "T", "shown", "interval", "n"),
        description=alt.Description("spoken:N"),
        **_by_method(methods, theme, order, dash=False),
    )
    return [lines, _intervals(x, ("low", "high"), scale, points.encoding["color"]), points]


def _intervals(x: alt.X, ends: tuple[str, str], scale: Any, colour: alt.Color) -> alt.Chart:
    """A thin line from the low end of each interval to the high one, where there is an interval."""
    low, high = ends
    here = alt.Chart().transform_filter(f"isValid(datum.{low}) && isValid(datum.{high})")
    y = alt.Y(f"{low}:Q", scale=scale)
    return here.mark_rule(strokeWidth=1.5, opacity=0.7, aria=False).encode(
        x=x, y=y, y2=alt.Y2(f"{high}:Q"), color=colour
    )


def _to_the_edges(frontier: pd.DataFrame, points: pd.DataFrame, worst: str) -> pd.DataFrame:
    """The frontier's line, drawn on to the worst quality and the highest cost among the points."""
    line = frontier[["cost", "quality"]].astype(float)
    if line.empty:
        return line
    start = pd.DataFrame({"cost": [line["cost"].iloc[0]], "quality": [float(points["quality"].agg(worst))]})
    end = pd.DataFrame({"cost": [float(points["cost"].max())], "quality": [line["quality"].iloc[-1]]})
    return pd.concat([start, line, end])


def in_order(order: Sequence[str], *frames: pd.DataFrame) -> list[str]:
    """The specs of the frames: vanilla first, then in the catalog's order."""
    place = {name: number for number, name in enumerate(order)}
    found = {name for frame in frames for name in frame["method"]}
    first = {name: name.partition("+")[0].partition(":")[0] for name in found}
    return sorted(found, key=lambda s: (s != "vanilla", place.get(first[s], len(place)), s))


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


def _positive(frame: pd.DataFrame, *names: str) -> pd.DataFrame:
    """The rows that a logarithmic axis can show: finite values above 0; such ends of intervals are taken out."""
    numbers = frame[list(names)].astype(float)
    shown = frame[((numbers > 0) & np.isfinite(numbers)).all(axis=1)]
    ends = {name: shown[name].astype(float) for name in ("low", "high") if name in shown}
    return shown.assign(**{name: end.where((end > 0) & np.isfinite(end)) for name, end in ends.items()})


def _value_axis(field: str, title: str, unit: str, values: pd.Series, *, padding: int, top: int = 0) -> dict[str, Any]:
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


def _length_axis(lengths: list[int], title: str = "T, tokens") -> alt.X:
    return alt.X(
        "T:Q",
        scale=alt.Scale(type="log", base=2, nice=False, padding=18),
        axis=alt.Axis(title=title, values=lengths, labelExpr=LENGTH_LABEL, labelOverlap="greedy"),
    )


def _by_method(
    methods: list[str], theme: Theme, order: Sequence[str], *, dash: bool, shape: bool = True
) -> dict[str, Any]:
    """Colour, shape and dash channels over the same domain; colour and shape share one legend."""
    styles = [style_of(name, order) for name in methods]
    legend = alt.Legend(title=None, orient="bottom", columns=alt.ExprRef(LEGEND_COLUMNS), symbolOpacity=1)
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
    titles = {"shown": "median", "interval": "95% interval", "n": "samples"}
    kinds = {"T": "Q", "n": "Q"}
    return [alt.Tooltip(f"{name}:{kinds.get(name, 'N')}", title=titles.get(name, name)) for name in names]


class _Layers(alt.LayerChart):
    """Layers that are not held against the schema each time they are drawn, which would take as long as making them."""

    def to_dict(self, validate: bool = False, **options: Any) -> dict[str, Any]:
        made: dict[str, Any] = super().to_dict(validate, **options)
        return made


def _layered(layers: Sequence[Any], theme: Theme, data: pd.DataFrame, height: Any = HEIGHT) -> alt.LayerChart:
    """Layers over each other; those without data of their own draw `data`."""
    chart = _Layers(layer=list(layers), data=data)
    return chart.properties(height=height, width="container").configure(**chart_config(theme))
