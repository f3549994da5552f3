"""Compare: cards side by side, time and memory against T, quality by position, quality against cost."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from longatlas import analysis, catalog
from longatlas.combination import Combination, parse_spec
from longatlas_dashboard import charts, marks, plots, settings, ui

COSTS = {
    "prefill": plots.BY_KEY["prefill"],
    "train": plots.BY_KEY["train"],
    "decode": plots.BY_KEY["decode"],
    "peak": plots.BY_KEY["peak_prefill"],
    "state": plots.BY_KEY["state"],
}
BASELINE = "vanilla"


def page() -> None:
    rows = ui.latest()
    ui.header("Compare", "The same measurements for each method, on one machine and in one case.")
    methods = _choose(rows)
    if not methods:
        ui.empty(
            "Choose methods above. Nothing has been measured yet." if rows.empty else "Choose methods above.",
            command="longatlas demo" if rows.empty else "",
        )
        return
    chosen = rows[rows["method"].isin(methods)]
    _missing(methods, chosen)
    tabs = st.tabs(["Scaling", "Quality", "Trade-off", "Cards", "Failures", "Table"])
    shaped = chosen[chosen["measure"].isin(analysis.SHAPED)]
    quality = chosen[chosen["measure"] == "quality"]
    with st.sidebar:
        setting = ui.setting_choice(shaped, label="Speed and memory on", key="on")
        tasks = ui.setting_choice(quality, label="Quality on", key="quality_on")
    if setting is not None:
        shaped = analysis.under(shaped, setting)
    if tasks is not None:
        quality = _same_machine(quality, tasks)
    with tabs[0]:
        _scaling(shaped, setting)
    with tabs[1]:
        _quality(quality, tasks)
    with tabs[2]:
        _trade_off(shaped, quality)
    with tabs[3]:
        _cards(methods)
    with tabs[4]:
        _failures(pd.concat([shaped, quality]))
    with tabs[5]:
        ui.table(plots.values_table(pd.concat([shaped, quality])), height=480)


def _same_machine(quality: pd.DataFrame, setting: pd.Series) -> pd.DataFrame:
    """Quality rows of the chosen setting, and of other tasks under the same conditions."""
    same = quality
    for name in analysis.CONDITIONS:
        same = same[same[name] == setting[name]]
    tasks = set(same.loc[same["case_text"] == setting["case_text"], "phase"])
    others = same[~same["phase"].isin(tasks)]
    return pd.concat([same[same["case_text"] == setting["case_text"]], others]).reset_index(drop=True)


def _choose(rows: pd.DataFrame) -> list[str]:
    measured = ui.names_with_rows(rows)
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
    chosen = st.multiselect("Methods", options, default=wanted or plots.default_methods(rows), key="compare_methods")
    if not unknown:
        ui.set_query(m=",".join(chosen))
    return chosen


def _missing(methods: list[str], rows: pd.DataFrame) -> None:
    missing = [name for name in methods if name not in set(rows["method"])]
    if not missing:
        return
    words = f"Not measured yet: {ui.texts(missing)}."
    if settings.read().read_only:
        st.info(words, icon=":material/hourglass_empty:")
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.info(words, icon=":material/hourglass_empty:")
        ui.link("run", "Run them", icon=":material/play_circle:", m=",".join(missing))


def _scaling(rows: pd.DataFrame, setting: pd.Series | None) -> None:
    if setting is None:
        ui.empty("No time or memory has been measured for these methods.", command="longatlas demo")
        return
    st.caption(
        ui.plain(ui.setting_text(setting))
        + ". Medians with 95% intervals; a cross at the top edge is a cell that failed."
    )
    columns = st.columns(2, gap="large")
    drawn = 0
    for view in plots.VIEWS:
        with columns[drawn % 2]:
            drawn += plots.against_length(rows, view, key=f"compare_{view.key}")
    ui.section("Growth with T", "Slope of the log-log line with its 95% interval, beside what the cards claim.")
    ui.table(plots.growth_table(rows, plots.VIEWS))
    _crossovers(rows)


def _crossovers(rows: pd.DataFrame) -> None:
    timed = [analysis.measured(rows, view.metric, view.phase) for view in plots.VIEWS]
    crossed = analysis.crossovers(pd.concat(timed), BASELINE)
    if crossed.empty:
        return
    ui.section(f"Against {BASELINE}", "From which T on it stays below, and the ratio at the longest shared T.")
    titles = {(view.phase, view.metric): view.title for view in plots.VIEWS}
    lines = [
        {
            "method": row.method,
            "what": titles.get((row.phase, row.metric), row.metric),
            "below from T": "not measured" if pd.isna(row.from_T) else marks.length_text(row.from_T),
            "ratio": round(row.ratio, 3),
            "at T": marks.length_text(row.longest_T),
        }
        for row in crossed.itertuples()
    ]
    ui.table(pd.DataFrame(lines).replace("not measured", "nowhere measured"))


def _quality(rows: pd.DataFrame, setting: pd.Series | None) -> None:
    if setting is None:
        ui.empty("No quality has been measured for these methods.", command="longatlas demo")
        return
    st.caption(ui.plain(ui.setting_text(setting)))
    told = {
        "bits_per_byte": ("Bits per byte by position", "bits per byte, lower is better"),
        "accuracy": ("Accuracy", "accuracy, higher is better"),
    }
    for (phase, metric), part in rows[rows["metric"] != ""].groupby(["phase", "metric"], sort=False):
        values = analysis.measured(part, metric, phase)
        title, axis = told.get(metric, (metric, metric))
        if phase not in ("language_model",):
            title = f"{phase}: {title.lower()}"
        st.markdown(f"**{ui.plain(title)}**")
        if values.empty:
            continue
        made = charts.buckets(values, title=axis, theme=ui.theme(), order=ui.methods_order())
        about = f"{title}: {', '.join(dict.fromkeys(values['method']))}. The numbers are in the tab Table."
        ui.chart(made, alt_text=about, key=f"quality_{phase}_{metric}")


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
    cost = analysis.at_length(shaped, view.metric, view.phase)
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
    ui.table(points.drop(columns=["cost_T", "quality_T"]))


def _cards(methods: list[str]) -> None:
    cards = [(spec, parse_spec(spec)) for spec in methods if plots.known(spec)]
    if not cards:
        return
    facts = {spec: _facts(combination) for spec, combination in cards}
    frame = pd.DataFrame(facts)
    differs = frame.nunique(axis=1) > 1
    frame.insert(0, "fact", frame.index)
    frame.insert(1, "differs", ["differs" if flag else "" for flag in differs])
    st.caption("One column per method. The column `differs` marks the facts in which they are not alike.")
    ui.table(frame, row_height=60)
    with st.container(horizontal=True):
        for spec, combination in cards:
            for part in combination.parts:
                ui.link("method", ui.plain(part.method.title), icon=":material/article:", id=part.method.name)


def _facts(combination: Combination) -> dict[str, str]:
    methods = [part.method for part in combination.parts]
    taxonomy = catalog.load_catalog().taxonomy
    return {
        "title": combination.title,
        "family": ", ".join(taxonomy.node(m.family).title for m in methods),
        "slots": ", ".join(slot for m in methods for slot in m.fills),
        "time": ", ".join(m.cost.time for m in methods),
        "state": ", ".join(m.cost.state for m in methods),
        "training": combination.training,
        "implementations": ", ".join(combination.impls),
        "options": ", ".join(f"{name}={value}" for name, value in combination.options.items()) or "none",
        "departures": combination.deviations or "none",
    }


def _failures(rows: pd.DataFrame) -> None:
    table = plots.failure_table(rows)
    if table.empty:
        st.caption("No cell failed for these methods.")
    else:
        ui.table(table)


page()
