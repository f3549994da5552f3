"""Trade-off: quality against time, memory or state, with the frontier of what nothing else beats in both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
import streamlit as st

from longatlas import measures
from longatlas.harness import analysis
from longatlas.measures import QUALITY
from longatlas_dashboard import charts, controls, data, marks, plots, safe, selection, takeaway, ui

COSTS = {
    "prefill": plots.BY_KEY["prefill"],
    "train": plots.BY_KEY["train"],
    "decode": plots.BY_KEY["decode"],
    "peak": plots.BY_KEY["peak_prefill"],
    "state": plots.BY_KEY["state"],
}
TASK = "language_model"
# metric -> its words, and whether less is better; the first that most methods have is shown first
QUALITIES = {
    "bits_per_byte": ("bits per byte", True),
    "bits_per_byte_at_end": ("bits per byte at the end", True),
    "accuracy": ("accuracy", False),
}


@dataclass(frozen=True)
class Quality:
    """A quality metric of one task: its setting, its rows, title, and whether less is better."""

    task: str
    setting: Any
    rows: pd.DataFrame
    title: str
    less: bool


def page() -> None:
    ui.header("Trade-off", "What a method costs against how well it does, each point one method with its options.")
    methods = selection.choose_methods("trade_off")
    if not methods:
        return
    setting = selection.choose_setting(methods, measures.shaped(), key="on", label="Cost measured on")
    if setting is None:
        selection.nothing_measured("time or memory", methods, *measures.MEASURES)
        return
    shaped = selection.rows_under(methods, measures.shaped(), setting, key="impl")
    quality = _quality(methods)
    if quality is None:
        selection.nothing_measured("quality", methods, QUALITY.name, tasks=(TASK,))
        return
    view, length, upto = _controls(shaped, quality)
    cost = analysis.at_length(shaped, view.metric, view.phase, length)
    points = analysis.trade_off(cost, quality.rows, train_length=upto)
    if points.empty:
        ui.empty(
            f"No method here has both {view.title.lower()} and {quality.title}.",
            command=f"longatlas run --methods {','.join(s for s in methods if plots.known(s))} "
            f"--measure speed,memory,quality --tasks {quality.task}",
        )
        return
    _draw(points, view, quality, plots.subtitle(setting, shaped[shaped["phase"] == view.phase]))
    _left_out(methods, points, cost, view, quality)
    costs = shaped[(shaped["phase"] == view.phase) & (shaped["measure"] == view.measure)]
    takeaway.of_view(methods, [(setting, costs), (quality.setting, quality.rows)], key="trade")


def _quality(methods: list[str]) -> Quality | None:
    """Let the reader choose a task and its setting; its rows of bits per byte or of accuracy."""
    tasks = data.ask("tasks", tuple(methods))
    if not tasks:
        return None
    first = TASK if TASK in tasks else tasks[0]
    left, right = st.columns([2, 3], vertical_alignment="bottom")
    with left:
        task = controls.selected("Quality in", tasks, key="task", default=first, words=plots.task_title)
    with right:
        setting = selection.choose_setting(
            methods, (QUALITY.name,), key="on_quality", phase=task, label="Quality measured on"
        )
    rows = selection.rows_under(methods, (QUALITY.name,), setting, task)
    counts = {name: analysis.measured(rows, name)["method"].nunique() for name in QUALITIES}
    there = [name for name in QUALITIES if counts[name]] or ["accuracy"]
    metric = max(there, key=lambda name: counts[name])
    if len(there) > 1:
        metric = controls.segments(
            "Quality as", there, key="metric", default=metric, words=lambda name: QUALITIES[name][0]
        )
    return Quality(task, setting, analysis.measured(rows, metric), *QUALITIES[metric])


def _controls(shaped: pd.DataFrame, quality: Quality) -> tuple[plots.View, int | None, int | None]:
    """The cost, the T it is taken at (the longest that all have), and that of the quality (the shortest)."""
    key = controls.segments("Cost", list(COSTS), key="cost", default="prefill", words=lambda name: COSTS[name].title)
    view = COSTS[key]
    costs = analysis.measured(shaped, view.metric, view.phase)
    buckets = sorted({int(length) for length in quality.rows["T"]})
    with st.container(horizontal=True):
        length = _length("Cost at T", sorted({int(T) for T in costs["T"]}), analysis.shared_length(costs), key="at")
        upto = _length("Quality up to T", buckets, min(buckets, default=None), key="upto")
    return view, length, upto


def _length(label: str, lengths: list[int], default: int | None, *, key: str) -> int | None:
    if not lengths:
        return None
    found: int = controls.segments(label, lengths, key=key, default=default, words=marks.length_text)
    return found


def _left_out(methods: list[str], points: pd.DataFrame, cost: pd.DataFrame, view: plots.View, quality: Quality) -> None:
    """Say which of the chosen methods have no point, and what of them is missing."""
    first = points.iloc[0]
    wanted = (
        (set(cost["method"]), f"{view.title.lower()} at T = {marks.length_text(first['cost_T'])}"),
        (
            set(quality.rows.loc[quality.rows["T"] == first["quality_T"], "method"]),
            f"{quality.title} at T = {marks.length_text(first['quality_T'])}",
        ),
    )
    missing = {
        spec: " and ".join(words for having, words in wanted if spec not in having)
        for spec in methods
        if spec not in set(points["method"])
    }
    if missing:
        ui.section("Not drawn", "Chosen methods without a number for one of the two.")
        ui.table(pd.DataFrame(missing.items(), columns=["method", "not measured"]))


def _draw(points: pd.DataFrame, view: plots.View, quality: Quality, subtitle: str) -> None:
    frontier = analysis.pareto(points, "cost", "quality", y_less=quality.less)
    unit = "" if view.unit == "bytes" else f", {view.unit}"
    upto = marks.length_text(points["quality_T"].iloc[0])
    made = charts.trade_off(
        points,
        frontier,
        cost_title=f"{view.title} at T = {marks.length_text(points['cost_T'].iloc[0])}{unit}, log scale",
        quality_title=f"{quality.title} {'up to' if quality.less else 'at'} T = {upto}",
        unit=view.unit,
        theme=ui.theme(),
        order=data.methods_order(),
        quality_less=quality.less,
    )
    corner = "Lower left" if quality.less else "Upper left"
    words = f"{corner} is better on both. The dashed step joins what no other method beats in both."
    st.caption(safe.plain(f"{subtitle} {words}"))
    best = ", ".join(frontier["method"])
    about = f"{quality.title} against {view.title.lower()}. Not beaten in both: {best}."
    ui.chart(made, alt_text=f"{about} The numbers are in the table below.", key="trade")
    ui.table(_table(points, frontier, view, quality))


def _table(points: pd.DataFrame, frontier: pd.DataFrame, view: plots.View, quality: Quality) -> pd.DataFrame:
    shown: Any = points.drop(columns=["cost_T", "quality_T"])
    words = {"cost": f"{view.title}, {view.unit}", "quality": quality.title}
    shown.columns = [
        f"{words[name.partition('_')[0]]} {name.partition('_')[2]}".strip() if name != "method" else name
        for name in shown.columns
    ]
    best = ["not beaten" if name in set(frontier["method"]) else "" for name in shown["method"]]
    shown.insert(1, "frontier", best)
    return shown


page()
