"""Plots with their headings and tables, as Compare and Method both show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import streamlit as st

from longatlas import analysis, catalog
from longatlas.combination import parse_spec
from longatlas.errors import LongAtlasError
from longatlas_dashboard import charts, marks, ui

AT_MOST = 10


@dataclass(frozen=True)
class View:
    """One plot against T."""

    key: str
    title: str
    measure: str
    phase: str
    metric: str
    unit: str


VIEWS = (
    View("train", "Train time", "speed", "train", "train_ms", "ms"),
    View("prefill", "Prefill time", "speed", "prefill", "prefill_ms", "ms"),
    View("decode", "Decode time, one token", "speed", "decode", "decode_ms", "ms"),
    View("peak_train", "Peak memory, train", "memory", "train", "peak_bytes", "bytes"),
    View("peak_prefill", "Peak memory, prefill", "memory", "prefill", "peak_bytes", "bytes"),
    View("state", "State after a prefill", "memory", "prefill", "state_bytes", "bytes"),
)
BY_KEY = {view.key: view for view in VIEWS}


def against_length(rows: pd.DataFrame, view: View, *, key: str) -> bool:
    """Draw a view of rows of one setting; False when there is nothing to draw."""
    values = analysis.measured(rows, view.metric, view.phase)
    failed = analysis.failures(rows, view.measure, view.phase)
    if values.empty and failed.empty:
        return False
    values, failed = _at_most(values, failed)
    title = f"{view.title}, {'log scale' if view.unit == 'bytes' else f'{view.unit}, log scale'}"
    made = charts.scaling(values, failed, title=title, unit=view.unit, theme=ui.theme(), order=ui.methods_order())
    st.markdown(f"**{view.title}**")
    ui.chart(made, alt_text=_alt(view, values, failed), key=key)
    return True


def growth_table(rows: pd.DataFrame, views: Sequence[View]) -> pd.DataFrame:
    """Claimed and fitted growth side by side, one line per method and view."""
    lines = []
    for view in views:
        fitted = analysis.exponents(analysis.measured(rows, view.metric, view.phase))
        for fit in fitted.itertuples():
            lines.append(
                {
                    "method": fit.method,
                    "what": view.title,
                    "fitted": marks.exponent_text(fit.exponent, fit.low, fit.high),
                    "claimed": claimed(fit.method, view),
                    "lengths": fit.n,
                }
            )
    return pd.DataFrame(lines, columns=["method", "what", "fitted", "claimed", "lengths"])


def claimed(spec: str, view: View) -> str:
    """What the cards claim for a view; "" where they claim nothing (peak memory, decode)."""
    try:
        methods = [part.method for part in parse_spec(spec).parts]
    except LongAtlasError:
        return ""
    if view.metric == "state_bytes":
        return " + ".join(method.cost.state for method in methods)
    if view.phase in ("prefill", "train") and view.measure == "speed":
        return " + ".join(method.cost.time for method in methods)
    return ""


def failure_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Failed cells: what, where, why."""
    failed = analysis.failures(rows)
    table = failed[["method", "measure", "phase", "T", "status", "reason"]]
    return table.sort_values(["method", "measure", "phase", "T"], kind="stable")


def values_table(rows: pd.DataFrame) -> pd.DataFrame:
    """The numbers behind the plots."""
    columns = ["method", "impl", "phase", "T", "metric", "value", "low", "high", "unit", "n"]
    return rows.loc[rows["status"] == "ok", columns]


def title_of(spec: str) -> str:
    """The title of a spec, or the spec itself when its method is not installed."""
    try:
        return parse_spec(spec).title
    except LongAtlasError:
        return spec


def known(spec: str) -> bool:
    """Whether a spec can be read with what is installed."""
    try:
        parse_spec(spec)
    except LongAtlasError:
        return False
    return True


def default_methods(rows: pd.DataFrame, count: int = 8) -> list[str]:
    """What Compare shows at first: measured methods, vanilla in front, those measured most first."""
    counts = rows["method"].value_counts(sort=True)
    names = sorted(counts.index, key=lambda name: (name != "vanilla", -counts[name], name))
    return names[:count]


def ready_methods() -> list[str]:
    return [m.name for m in catalog.load_catalog().methods.values() if catalog.method_status(m) == "ready"]


def _at_most(values: pd.DataFrame, failed: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    names = list(dict.fromkeys([*values["method"], *failed["method"]]))
    if len(names) > AT_MOST:
        st.caption(f"The first {AT_MOST} of {len(names)} methods; choose fewer to see the others.")
        keep = set(names[:AT_MOST])
        values, failed = values[values["method"].isin(keep)], failed[failed["method"].isin(keep)]
    return values, failed


def _alt(view: View, values: pd.DataFrame, failed: pd.DataFrame) -> str:
    parts = []
    for name, rows in values.groupby("method", sort=False):
        first, last = rows.iloc[0], rows.iloc[-1]
        parts.append(
            f"{name} from {marks.value_text(first['value'], view.unit)} at T = {first['T']} "
            f"to {marks.value_text(last['value'], view.unit)} at T = {last['T']}"
        )
    text = f"{view.title} against T, both axes logarithmic. {'; '.join(parts)}."
    return text + (f" {len(failed)} cells failed; they are in the table of failures." if len(failed) else "")
