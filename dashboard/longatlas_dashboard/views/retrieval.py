"""Retrieval: what is found again, by depth and length, and up to which length a method holds."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from longatlas import catalog
from longatlas.harness import analysis
from longatlas.measures import QUALITY
from longatlas.tasks.cards import CHANCE, LANGUAGE_MODEL
from longatlas_dashboard import charts, controls, data, marks, plots, safe, selection, takeaway, ui

METRIC = "accuracy"
SHARES = tuple(n / 20 for n in range(2, 21))


def page() -> None:
    ui.header("Retrieval", "Tasks that ask for something said before: accuracy by length, and by depth in the text.")
    methods = selection.choose_methods("retrieval")
    if not methods:
        return
    stored = data.ask("metrics", tuple(methods), QUALITY.name)
    tasks = [task for task in data.ask("tasks", tuple(methods)) if _asks(stored, task)]
    if not tasks:
        selection.nothing_measured("retrieval", methods, QUALITY.name, tasks=("passkey",))
        return
    task = controls.segments("Task", tasks, key="task", default=tasks[0], words=plots.task_title)
    setting = selection.choose_setting(methods, (QUALITY.name,), key="on", phase=task)
    rows = selection.rows_under(methods, (QUALITY.name,), setting, task)
    _about(task, setting, rows)
    _accuracy(task, rows)
    depth_maps(rows, task, key="retrieval")
    plots.failed_and_values(rows)
    takeaway.of_view(methods, [(setting, rows)], key="retrieval")


def _asks(stored: pd.DataFrame, task: str) -> bool:
    """Whether a task has answers that are right or wrong; one that has only failed cells may have.

    stored  phase and metric of all that was stored of quality
    """
    found = set(stored.loc[stored["phase"] == task, "metric"])
    return METRIC in found or (found == {""} and task != LANGUAGE_MODEL.name)


def _about(task: str, setting: Any, rows: pd.DataFrame) -> None:
    known = catalog.load_catalog().tasks.get(task)
    if known:
        st.text(known.summary)
    chance = rows.loc[rows["metric"] == CHANCE, "value"]
    guess = f" Guessing gives {chance.iloc[0]:.1%}." if len(chance) else ""
    st.caption(safe.plain(plots.subtitle(setting, rows)) + guess)


def _accuracy(task: str, rows: pd.DataFrame) -> None:
    values = analysis.measured(rows, METRIC, task)
    if values.empty:
        ui.empty("Every cell of this task failed; the table below tells why. Jobs can try them again.")
        return
    threshold = controls.slid(
        "Holds while accuracy is at least", SHARES, key="hold", default=0.9, words="{:.0%}".format
    )
    held = analysis.effective_lengths(values, threshold)
    left, right = st.columns([3, 2], gap="large")
    with left:
        made = charts.buckets(
            values, title="accuracy, higher is better", theme=ui.theme(), order=data.methods_order(), share=True
        )
        told = "; ".join(
            f"{row.method} holds {'nowhere' if pd.isna(row.effective_T) else f'up to T = {row.effective_T}'}"
            for row in held.itertuples()
        )
        ui.chart(made, alt_text=f"Accuracy against T in {task}. At {threshold:.0%}: {told}.", key="accuracy")
    with right:
        ui.section("Effective length", "The greatest T up to which it holds at every measured length.")
        ui.table(
            pd.DataFrame(
                {
                    "method": held["method"],
                    "effective T": ["none" if pd.isna(T) else marks.length_text(int(T)) for T in held["effective_T"]],
                    "measured up to": [marks.length_text(int(T)) for T in held["longest_T"]],
                }
            )
        )


def depth_maps(rows: pd.DataFrame, task: str, *, key: str) -> None:
    """One heat map per method, three beside each other."""
    by_depth = analysis.depths(rows)
    if by_depth.empty:
        return
    ui.section("By depth", "Depth 0 is the beginning of the text. The colour scale is the same for all: 0 to 100%.")
    names = data.names_with_rows(by_depth)[: plots.AT_MOST]
    for first in range(0, len(names), 3):
        for column, name in zip(st.columns(3), names[first : first + 3], strict=False):
            own = by_depth[by_depth["method"] == name]
            worst = own.loc[own["value"].idxmin()]
            about = f"{task}, {name}: accuracy by depth and T; the least is {worst['value']:.0%} at depth "
            with column:
                st.caption(safe.plain(f"{name}, n = {int(own['n'].max())} a cell"))
                ui.chart(
                    charts.depth_map(own, theme=ui.theme()),
                    alt_text=f"{about}{worst['depth']}, T = {worst['T']}. All values are in the table Values.",
                    key=f"{key}_depth_{task}_{name}",
                )


page()
