"""Compare: cards side by side, then time and memory against T, and quality by position."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from longatlas import catalog, measures
from longatlas.combination import Combination, parse_spec
from longatlas.harness import analysis
from longatlas.measures import QUALITY
from longatlas.tasks.cards import CHANCE, about_training
from longatlas_dashboard import charts, controls, data, plots, safe, selection, takeaway, ui

TABS = {"cost": "Time and memory", "quality": "Quality", "failed": "Failures", "table": "Table"}
AXES = {
    "bits_per_byte": "bits per byte, lower is better",
    "bits_per_byte_at_end": "bits per byte at the end of a bucket, lower is better",
    "accuracy": "accuracy, higher is better",
    "accuracy_overall": "accuracy of all lengths together, higher is better",
}


def page() -> None:
    ui.header("Compare", "The same measurements for each method, on one machine and in one case.")
    methods = selection.choose_methods("compare")
    if not methods:
        return
    _cards(methods)
    costs, quality, failures, table = controls.tabs(TABS, key="view")
    with costs:
        setting, shaped = _costs(methods)
    with quality:
        scored = _quality(methods)
    parts = [(setting, shaped), *scored]
    shown = pd.concat([rows for _, rows in parts])
    with failures:
        _failures(shown)
    with table:
        ui.table(plots.values_table(shown), height=480)
    takeaway.of_view(methods, parts, key="compare")


def _costs(methods: list[str]) -> tuple[Any, pd.DataFrame]:
    """Draw time and memory against T; returns the chosen setting and its rows."""
    setting = selection.choose_setting(methods, measures.shaped(), key="on")
    if setting is None:
        selection.nothing_measured("time or memory", methods, *measures.shaped())
        return None, data.store().rows(keys=[])
    chosen = selection.rows_under(methods, measures.shaped(), setting, key="impl")
    words = "Medians with 95% intervals; a cross above a plot is a cell that failed."
    st.caption(safe.plain(f"{plots.subtitle(setting, chosen)} {words}"))
    plots.all_views(chosen, key="compare")
    return setting, chosen


def _quality(methods: list[str]) -> list[takeaway.Part]:
    """Draw each task; returns the chosen settings with their rows."""
    shown = []
    for task in data.ask("tasks", tuple(methods)):
        st.markdown(f"**{safe.plain(plots.task_title(task))}**")
        setting = selection.choose_setting(methods, (QUALITY.name,), key=f"on_{task}", phase=task)
        chosen = selection.rows_under(methods, (QUALITY.name,), setting, task)
        shown.append((setting, chosen))
        st.caption(safe.plain(plots.subtitle(setting, chosen)))
        by_depth = analysis.depths(chosen)
        told_elsewhere = {"", CHANCE, *about_training(chosen["metric"]), *by_depth["metric"]}
        for metric in dict.fromkeys(chosen["metric"]):
            if metric not in told_elsewhere:
                _metric(chosen, task, metric)
        if len(by_depth):
            ui.link("retrieval", "By depth", icon=":material/grid_on:", m=",".join(methods), task=task)
        failed = len(analysis.failures(chosen))
        if failed:
            st.caption(f"{failed} of its cells gave no number; they are in the tab Failures.")
    if not shown:
        selection.nothing_measured("quality", methods, QUALITY.name)
    return shown


def _metric(rows: pd.DataFrame, task: str, metric: str) -> None:
    values = analysis.measured(rows, metric, task)
    if values.empty:
        return
    axis = AXES.get(metric, metric)
    made = charts.buckets(
        values,
        title=axis,
        theme=ui.theme(),
        order=data.methods_order(),
        length_title="upper end of the position bucket, tokens" if task == "language_model" else "T, tokens",
        share=metric.startswith("accuracy"),
    )
    names = ", ".join(dict.fromkeys(values["method"]))
    about = f"{axis} against T in the task {task}: {names}. The numbers are in the tab Table."
    ui.chart(made, alt_text=about, key=f"quality_{task}_{metric}")


def _cards(methods: list[str]) -> None:
    """The cards as columns of one table; a fact in which they are not alike is marked with ≠."""
    cards = {spec: parse_spec(spec) for spec in methods if plots.known(spec)}
    facts = {spec: _facts(combination) for spec, combination in cards.items()}
    names = list(next(iter(facts.values()), {}))
    marked = [f"≠ {name}" if len({f[name] for f in facts.values()}) > 1 else name for name in names]
    table = pd.DataFrame({"fact": marked} | {spec: [f[name] for name in names] for spec, f in facts.items()})
    ui.section("Cards", "≠ marks what is not the same for all of them.")
    ui.table(table, column_config={"fact": st.column_config.TextColumn("", pinned=True, width="small")})
    with st.container(horizontal=True):
        for name in dict.fromkeys(part.method.name for card in cards.values() for part in card.parts):
            ui.link("method", safe.plain(name), icon=":material/article:", id=name)


def _facts(combination: Combination) -> dict[str, str]:
    methods = [part.method for part in combination.parts]
    taxonomy = catalog.load_catalog().taxonomy
    return {
        "family": ", ".join(taxonomy.node(m.family).title for m in methods),
        "slots": ", ".join(slot for m in methods for slot in m.fills),
        "time": ", ".join(m.cost.time for m in methods),
        "state": ", ".join(m.cost.state for m in methods),
        "training": combination.training,
        "impl": ", ".join(combination.impls),
        "options": ", ".join(f"{name}={value}" for name, value in combination.options.items()) or "none",
    }


def _failures(rows: pd.DataFrame) -> None:
    table = plots.failure_table(rows)
    if table.empty:
        st.caption("No cell failed for these methods.")
    else:
        ui.table(table)


page()
