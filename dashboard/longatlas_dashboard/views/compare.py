"""Compare: cards side by side, time and memory against T, quality by position, quality against cost."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from longatlas import catalog
from longatlas.combination import Combination, parse_spec
from longatlas.harness import analysis
from longatlas.tasks.cards import ABOUT_TRAINING, CHANCE
from longatlas_dashboard import charts, marks, plots, settings, ui

COSTS = {
    "prefill": plots.BY_KEY["prefill"],
    "train": plots.BY_KEY["train"],
    "decode": plots.BY_KEY["decode"],
    "peak": plots.BY_KEY["peak_prefill"],
    "state": plots.BY_KEY["state"],
}
BASELINE = "vanilla"
AXES = {
    "bits_per_byte": "bits per byte, lower is better",
    "accuracy": "accuracy, higher is better",
}


def page() -> None:
    measured = ui.measured()
    ui.header("Compare", "The same measurements for each method, on one machine and in one case.")
    methods = _choose(measured)
    if not methods:
        ui.empty(
            "Choose methods above. Nothing has been measured yet." if measured.empty else "Choose methods above.",
            command="longatlas demo" if measured.empty else "",
        )
        return
    _missing(methods, measured)
    scaling, quality, trade, cards, failures, table = st.tabs(
        ["Scaling", "Quality", "Trade-off", "Cards", "Failures", "Table"]
    )
    with scaling:
        shaped = _scaling(methods)
    with quality:
        scored = _quality(methods)
    shown = pd.concat([shaped, scored])
    with trade:
        _trade_off(shaped, scored)
    with cards:
        _cards(methods)
    with failures:
        _failures(shown)
    with table:
        ui.table(plots.values_table(shown), height=480)


def _choose(found: pd.DataFrame) -> list[str]:
    measured = ui.names_with_rows(found)
    asked = ui.query_list("m")
    unknown = [spec for spec in asked if spec not in measured and not plots.known(spec)]
    if unknown:
        st.error(
            f"Not known here: {ui.texts(unknown)}. Choose from the list; "
            "a method of a plugin appears when the plugin is installed.",
            icon=":material/search_off:",
        )
    wanted = [spec for spec in asked if spec not in unknown]
    options = list(dict.fromkeys([*measured, *wanted, *plots.ready_methods()]))
    chosen = st.multiselect("Methods", options, default=wanted or plots.default_methods(found), key="compare_methods")
    if not unknown:
        ui.set_query(m=",".join(chosen))
    return chosen


def _missing(methods: list[str], measured: pd.DataFrame) -> None:
    missing = [name for name in methods if name not in set(measured["method"])]
    if not missing:
        return
    words = f"Not measured yet: {ui.texts(missing)}."
    if settings.read().read_only:
        st.info(words, icon=":material/hourglass_empty:")
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.info(words, icon=":material/hourglass_empty:")
        ui.link("run", "Run them", icon=":material/play_circle:", m=",".join(missing))


def _scaling(methods: list[str]) -> pd.DataFrame:
    """Draw time and memory against T; returns the rows of the chosen setting."""
    setting = ui.setting_choice(methods, analysis.SHAPED, key="on")
    if setting is None:
        ui.empty("No time or memory has been measured for these methods.", command="longatlas demo")
        return ui.store().rows(keys=[])
    chosen = ui.rows_under(methods, analysis.SHAPED, setting)
    st.caption(
        ui.plain(ui.setting_text(setting)) + ". Medians with 95% intervals; a cross above a plot is a cell that failed."
    )
    plots.all_views(chosen, key="compare")
    ui.section("Growth with T", "Slope of the log-log line with its 95% interval, beside what the cards claim.")
    ui.table(plots.growth_table(chosen))
    against = plots.crossover_table(chosen, BASELINE)
    if not against.empty:
        ui.section(f"Less than {BASELINE}", "From which T on, and how many times its value at the longest shared T.")
        ui.table(against)
    return chosen


def _quality(methods: list[str]) -> pd.DataFrame:
    """Draw each task; returns the rows of the chosen settings."""
    shown = []
    for task in ui.ask("tasks", tuple(methods)):
        known = catalog.load_catalog().tasks.get(task)
        st.markdown(f"**{ui.plain(known.title if known else task)}**")
        setting = ui.setting_choice(methods, ("quality",), key=f"on_{task}", phase=task)
        chosen = ui.rows_under(methods, ("quality",), setting, task)
        shown.append(chosen)
        st.caption(ui.plain(ui.setting_text(setting)))
        by_depth = analysis.depths(chosen)
        told_elsewhere = {"", CHANCE, *ABOUT_TRAINING, *by_depth["metric"]}
        for metric in dict.fromkeys(chosen["metric"]):
            if metric not in told_elsewhere:
                _metric(chosen, task, metric)
        _depths(by_depth, task)
        failed = len(analysis.failures(chosen))
        if failed:
            st.caption(f"{failed} of its cells gave no number; they are in the tab Failures.")
    if not shown:
        ui.empty("No quality has been measured for these methods.", command="longatlas demo")
    return pd.concat(shown) if shown else ui.store().rows(keys=[])


def _metric(rows: pd.DataFrame, task: str, metric: str) -> None:
    values = analysis.measured(rows, metric, task)
    if values.empty:
        return
    axis = AXES.get(metric, metric)
    made = charts.buckets(
        values,
        title=axis,
        theme=ui.theme(),
        order=ui.methods_order(),
        length_title="upper end of the position bucket, tokens" if task == "language_model" else "T, tokens",
        share=metric.startswith("accuracy"),
    )
    names = ", ".join(dict.fromkeys(values["method"]))
    about = f"{axis} against T in the task {task}: {names}. The numbers are in the tab Table."
    ui.chart(made, alt_text=about, key=f"quality_{task}_{metric}")


def _depths(rows: pd.DataFrame, task: str) -> None:
    """One heat map per method, three beside each other."""
    names = ui.names_with_rows(rows)
    for first in range(0, len(names), 3):
        for column, name in zip(st.columns(3), names[first : first + 3], strict=False):
            own = rows[rows["method"] == name]
            worst = own.loc[own["value"].idxmin()]
            about = f"{task}, {name}: accuracy by depth and T; the least is {worst['value']:.0%} at depth "
            with column:
                st.caption(ui.plain(name))
                ui.chart(
                    charts.depth_map(own, theme=ui.theme()),
                    alt_text=f"{about}{worst['depth']}, T = {worst['T']}.",
                    key=f"depth_{task}_{name}",
                )


def _trade_off(shaped: pd.DataFrame, quality: pd.DataFrame) -> None:
    key = st.segmented_control(
        "Cost",
        list(COSTS),
        default="prefill",
        required=True,
        format_func=lambda name: COSTS[name].title,
        key="cost",
        bind="query-params",
    )
    view = COSTS[key or "prefill"]
    lengths = sorted({int(length) for length in analysis.measured(shaped, view.metric, view.phase)["T"]})
    length = st.segmented_control("at T", lengths, format_func=marks.length_text, key="at", bind="query-params")
    if length is None:
        st.caption("At the longest T that all have; choose another above.")
    cost = analysis.at_length(shaped, view.metric, view.phase, length)
    bits = analysis.measured(quality, "bits_per_byte")
    points = analysis.trade_off(cost, bits)
    if points.empty:
        ui.empty(
            f"No method here has both {view.title.lower()} and bits per byte.",
            command="longatlas run --measure speed,memory,quality --methods vanilla,sliding_window",
        )
        return
    frontier = analysis.pareto(points, "cost", "quality")
    unit = "" if view.unit == "bytes" else f", {view.unit}"
    made = charts.trade_off(
        points,
        frontier,
        cost_title=f"{view.title} at T = {marks.length_text(points['cost_T'].iloc[0])}{unit}, log scale",
        quality_title=f"bits per byte up to T = {marks.length_text(points['quality_T'].iloc[0])}",
        unit=view.unit,
        theme=ui.theme(),
        order=ui.methods_order(),
    )
    st.caption("Lower left is better on both. The dashed step joins what no other method beats in both.")
    best = ", ".join(frontier["method"])
    ui.chart(made, alt_text=f"Bits per byte against {view.title.lower()}. Not beaten in both: {best}.", key="trade")
    shown = points.drop(columns=["cost_T", "quality_T"])
    words = {"cost": f"{view.title}, {view.unit}", "quality": "bits per byte"}
    shown.columns = [
        f"{words[name.partition('_')[0]]} {name.partition('_')[2]}".strip() if name != "method" else name
        for name in shown.columns
    ]
    ui.table(shown)


def _cards(methods: list[str]) -> None:
    """Cards three beside each other; a fact in which they are not alike is marked with ≠."""
    cards = {spec: parse_spec(spec) for spec in methods if plots.known(spec)}
    facts = {spec: _facts(combination) for spec, combination in cards.items()}
    differs = {name: len({f[name] for f in facts.values()}) > 1 for name in next(iter(facts.values()), {})}
    st.caption("≠ marks what is not the same for all of them.")
    specs = list(cards)
    for first in range(0, len(specs), 3):
        for column, spec in zip(st.columns(3), specs[first : first + 3], strict=False):
            with column, st.container(border=True, height="stretch"):
                _card(cards[spec], facts[spec], differs)


def _card(combination: Combination, facts: dict[str, str], differs: dict[str, bool]) -> None:
    with st.container(horizontal=True):
        for part in combination.parts:
            title = f"**{ui.plain(part.method.title, ui.LINE)}**"
            ui.link("method", title, icon=":material/article:", id=part.method.name)
    lines = [f"{'**≠** ' if differs[name] else ''}:gray[{name}] {ui.plain(value)}" for name, value in facts.items()]
    st.markdown("  \n".join(lines))


def _facts(combination: Combination) -> dict[str, str]:
    methods = [part.method for part in combination.parts]
    taxonomy = catalog.load_catalog().taxonomy
    return {
        "family": ", ".join(taxonomy.node(m.family).title for m in methods),
        "slots": ", ".join(slot for m in methods for slot in m.fills),
        "time": ", ".join(m.cost.time for m in methods),
        "state": ", ".join(m.cost.state for m in methods),
        "training": combination.training,
        "implementations": ", ".join(combination.impls),
        "options": ", ".join(f"{name}={value}" for name, value in combination.options.items()) or "none",
    }


def _failures(rows: pd.DataFrame) -> None:
    table = plots.failure_table(rows)
    if table.empty:
        st.caption("No cell failed for these methods.")
    else:
        ui.table(table)


page()
