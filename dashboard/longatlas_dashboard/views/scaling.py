"""Scaling: time against T with slopes, failures and crossovers, in ms, tokens a second, or as ratio to vanilla."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import streamlit as st

from longatlas.harness import analysis
from longatlas.measures import SPEED
from longatlas.words import BASELINE
from longatlas_dashboard import charts, controls, data, plots, safe, selection, takeaway, ui

UNITS = {"ms": "ms", "rate": "tokens/s", "ratio": f"× {BASELINE}"}
# Reference lines by unit: powers of T of a whole pass, and of one token at T.
SLOPES = {"ms": ((1.0, 2.0), (0.0, 1.0)), "rate": ((0.0, -1.0), (0.0, -1.0)), "ratio": ((), ())}
SHARES = {"compute_share": "share of the peak product rate", "bandwidth_share": "share of the peak bandwidth"}


def page() -> None:
    ui.header("Scaling", "Time against length, both axes logarithmic: medians with 95% intervals.")
    methods = selection.choose_methods("scaling")
    if not methods:
        return
    setting = selection.choose_setting(methods, (SPEED.name,), key="on")
    if setting is None:
        selection.nothing_measured("time", methods, SPEED.name)
        return
    rows = selection.rows_under(methods, (SPEED.name,), setting, key="impl")
    phases, unit, slopes = _controls(rows)
    st.caption(safe.plain(f"{plots.subtitle(setting, rows)} A cross is a cell that failed."))
    shown = [view for view in plots.TIMES if view.phase in phases]
    for view in plots.beside(shown):
        _plot(rows, view, unit, slopes)
    chosen = rows[rows["phase"].isin(phases)]
    _tables(chosen, shown)
    _shares(chosen)
    takeaway.of_view(methods, [(setting, chosen)], key="scaling")


def _controls(rows: pd.DataFrame) -> tuple[list[str], str, bool]:
    """Phases, unit and whether slopes are drawn."""
    there = [view.phase for view in plots.TIMES if (rows["phase"] == view.phase).any()]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        phases = controls.several("Phases", there, key="p", default=there)
        unit = controls.segments("Shown as", list(UNITS), key="u", default="ms", words=UNITS.__getitem__)
        slopes = st.toggle("Reference slopes", value=True, key="slopes", bind="query-params")
    return phases or there, unit, slopes


def _plot(rows: pd.DataFrame, view: plots.View, unit: str, slopes: bool) -> None:
    failed = analysis.failures(rows, view.measure, view.phase)
    values = analysis.measured(rows, view.metric, view.phase)
    if unit == "rate":
        values = analysis.measured(rows, "tokens_per_s", view.phase)
        view = replace(view, key=f"{view.key}_rate", title=view.title.replace("time", "rate"), unit="tokens/s")
    elif unit == "ratio":
        values = analysis.ratios(values, BASELINE)
        view = replace(view, key=f"{view.key}_ratio", title=f"{view.title} over that of {BASELINE}", unit="×")
        failed = failed[failed["method"] != BASELINE]
    powers = SLOPES[unit][view.phase == "decode"] if slopes else ()
    plots.draw(values, failed, view, key=f"scaling_{view.key}", powers=powers)


def _tables(rows: pd.DataFrame, shown: list[plots.View]) -> None:
    growth = plots.growth_table(rows, shown)
    if not growth.empty:
        ui.section("Growth with T", "Slope of the log-log line with its 95% interval, beside what the cards claim.")
        ui.table(growth.drop(columns="state claimed"))
    against = plots.crossover_table(rows, BASELINE, shown)
    if not against.empty:
        ui.section(f"Faster than {BASELINE}", "From which T on, and how many times its time at the longest shared T.")
        ui.table(against)
    plots.failed_and_values(rows, plots.CROSSES)


def _shares(rows: pd.DataFrame) -> None:
    """How near the machine's measured peaks each method comes."""
    found = {name: rows[(rows["metric"] == name) & (rows["status"] == "ok")] for name in SHARES}
    if all(part.empty for part in found.values()):
        return
    ui.section("Roofline", "The time that the peaks measured on this machine would need, over the time measured.")
    phases = [
        phase for phase in ("prefill", "train", "decode") if any((f["phase"] == phase).any() for f in found.values())
    ]
    phase = controls.segments("Phase", phases, key="roof", default=phases[0])
    for column, (name, title) in zip(st.columns(2, gap="large"), SHARES.items(), strict=True):
        own = analysis.measured(found[name], name, phase)
        if own.empty:
            continue
        with column:
            st.markdown(f"**{title}**")
            made = charts.buckets(own, title=title, theme=ui.theme(), order=data.methods_order(), share=True)
            best = own.loc[own["value"].idxmax()]
            about = f"{title} against T, {phase}: at most {best['value']:.0%}, {best['method']} at T = {best['T']}."
            ui.chart(made, alt_text=f"{about} The numbers are in the table Values.", key=f"roof_{name}")


page()
