"""Memory: peak and state against T, measured and by formula; what fits a budget; the Infini paper's Table 1."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import streamlit as st

from longatlas.combination import parse_spec, state_numbers
from longatlas.flops import Call
from longatlas.footprint import TABLE, Setting
from longatlas.harness import analysis, findings
from longatlas.measures import MEMORY
from longatlas.words import DTYPES
from longatlas_dashboard import controls, data, marks, plots, safe, selection, settings, takeaway, ui

BUDGETS = tuple(1 << power for power in range(18, 41))  # 256 KiB to 1 TiB
# What a budget may hold: its words, and the phase that it is measured in.
WHOLE = {
    "peak_prefill": ("prefill", "prefill"),
    "peak_train": ("train", "train"),
    "peak_decode": ("decode", "decode"),
    "state": ("state alone", "prefill"),
}


def page() -> None:
    ui.header("Memory", "What a method needs at its peak, and what it carries to the next call.")
    methods = selection.choose_methods("memory")
    if not methods:
        return
    setting = selection.choose_setting(methods, (MEMORY.name,), key="on")
    if setting is None:
        selection.nothing_measured("memory", methods, MEMORY.name)
        _table_1()
        return
    rows = selection.rows_under(methods, (MEMORY.name,), setting, key="impl")
    words = "Live tensors counted at every operation; × is the formula's."
    st.caption(safe.plain(f"{plots.subtitle(setting, rows)} {words}"))
    shown = [view for view in plots.BYTES if view.phase in set(rows["phase"])]
    for view in plots.beside(shown):
        _plot(rows, view, setting)
    _budget(rows)
    _tables(rows, shown, setting)
    _table_1()
    takeaway.of_view(methods, [(setting, rows)], key="memory")


def _plot(rows: pd.DataFrame, view: plots.View, setting: Any) -> None:
    values = analysis.measured(rows, view.metric, view.phase)
    failed = analysis.failures(rows, view.measure, view.phase)
    formula = by_formula(values, setting) if view.metric == "state_bytes" else None
    plots.draw(values, failed, view, key=f"memory_{view.key}", formula=formula)


def by_formula(values: pd.DataFrame, setting: Any) -> pd.DataFrame:
    """State by the cards' formulas at the lengths of `values`; methods without a formula are left out.

    Columns: method, T, value (bytes). Only the level of a decoder has a number of layers.
    """
    case, lines = setting["case"], []
    size = DTYPES[str(setting["dtype"])] * int(case["batch"])
    layers = int(case.get("layers", 1))
    for spec, T in dict.fromkeys(zip(values["method"], values["T"], strict=True)):
        if not plots.known(spec):
            continue
        call = Call(int(T), 0, case["heads"], case["head_size"], n_layers=layers, n_kv_heads=case.get("kv_heads"))
        calls = [replace(call, layer=i) for i in range(layers)]
        numbers = [state_numbers(parse_spec(spec), call) for call in calls]
        if None not in numbers:
            lines.append((spec, int(T), float(size * sum(number or 0 for number in numbers))))
    return pd.DataFrame(lines, columns=["method", "T", "value"])


def _budget(rows: pd.DataFrame) -> None:
    ui.section(
        "What fits",
        "The greatest T within a budget that holds weights, inputs and what a phase makes: measured, and drawn on "
        "along the log-log line.",
    )
    sizes = {key: _sizes(rows, key) for key in WHOLE}
    there = [key for key, found in sizes.items() if not found.empty]
    if not there:
        st.caption("No peak and no state has been measured.")
        return
    left, right = st.columns([3, 3], vertical_alignment="bottom")
    with left:
        key = controls.segments("Of", there, key="of", default=there[0], words=lambda name: WHOLE[name][0])
    with right:
        budget = controls.slid("Budget", BUDGETS, key="budget", default=64 << 20, words=marks.bytes_text)
    failed = analysis.failures(rows, MEMORY.name, WHOLE[key][1])
    ui.table(fits_table(analysis.largest_that_fits(sizes[key], float(budget), failed)))


def _sizes(rows: pd.DataFrame, key: str) -> pd.DataFrame:
    phase = WHOLE[key][1]
    return analysis.measured(rows, "state_bytes", phase) if key == "state" else analysis.needed_bytes(rows, phase)


def fits_table(found: pd.DataFrame) -> pd.DataFrame:
    """analysis.largest_that_fits in words."""
    lines = []
    for row in found.itertuples():
        longest = pd.notna(row.measured_T) and row.measured_T == row.longest_T
        estimate = (
            "" if pd.isna(row.estimated_T) else "any" if row.estimated_T == float("inf") else f"{row.estimated_T:,.0f}"
        )
        lines.append(
            {
                "method": row.method,
                "measured": "none" if pd.isna(row.measured_T) else marks.length_text(int(row.measured_T)),
                "needs there": marks.value_text(row.value, "bytes"),
                "beyond": "not measured" if longest else "does not fit",
                "estimated T": estimate,
            }
        )
    return pd.DataFrame(lines)


def _tables(rows: pd.DataFrame, shown: list[plots.View], setting: Any) -> None:
    growth = plots.growth_table(rows, shown)
    if not growth.empty:
        ui.section("Growth with T", "Slope of the log-log line with its 95% interval, beside the claimed state.")
        ui.table(growth.drop(columns="time claimed"))
    state = analysis.measured(rows, "state_bytes", "prefill")
    formula = by_formula(state, setting)
    if not formula.empty:
        ui.section(
            "State, formula and measured",
            "Bytes. The formula counts floating-point numbers; positions, which are integers, come on top of it.",
        )
        joined = state[["method", "T", "value"]].merge(formula, on=["method", "T"], suffixes=("_measured", "_formula"))
        joined.columns = ["method", "T", "measured", "formula"]
        ui.table(joined.assign(ratio=joined["measured"] / joined["formula"]), height=240)
    plots.failed_and_values(rows, plots.CROSSES)


def _table_1() -> None:
    ui.section(
        "Table 1 of the Infini-attention paper",
        "Numbers kept by each memory: by the paper's formula in its setting (12 layers, 8 heads of 128, N = 2048, "
        "S = 65,000), and in a small one by formula and by walking the state of a decoder.",
    )
    record = findings.kept(data.store(), "footprint")
    if not settings.read().read_only and st.button(
        "Measure the small setting" if record is None else "Measure again",
        key="find_footprint",
        icon=":material/play_circle:",
    ):
        try:
            with st.spinner("Reading past all memory ..."):
                findings.find(data.store(), "footprint")
            st.rerun()
        except data.STORE_ERRORS as error:
            st.error(safe.plain(data.error_text(error)), icon=":material/error:")
    found = {row["name"]: row for row in record["found"]} if record else {}
    paper = Setting()
    lines = []
    for row in TABLE:
        own = found.get(row.name, {})
        lines.append(
            {
                "memory": row.name,
                "keeps": row.cache,
                "looks back": row.context,
                "paper's setting": f"{row.elements(paper) / 1e6:.1f}M",
                "small, formula": f"{own['yours']:,}" if own else "",
                "small, measured": f"{own['measured']:,}" if own.get("measured") is not None else "",
            }
        )
    ui.table(pd.DataFrame(lines))
    st.code("longatlas footprint", language=None)


page()
