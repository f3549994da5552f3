"""Plots with their headings and tables, as Compare and Method both show them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from longatlas import catalog
from longatlas.combination import parse_spec
from longatlas.errors import LongAtlasError
from longatlas.harness import analysis
from longatlas.measures import MEMORY, SPEED, View, views
from longatlas.words import BASELINE
from longatlas_dashboard import charts, data, marks, safe, ui

AT_MOST = 10
CROSSES = "Cells without a number; they stand as crosses above the plots."


VIEWS = views()
BY_KEY = {view.key: view for view in VIEWS}
TIMES = SPEED.views
BYTES = MEMORY.views


def against_length(rows: pd.DataFrame, view: View, *, key: str) -> None:
    """Draw a view of rows of one setting."""
    values = analysis.measured(rows, view.metric, view.phase)
    draw(values, analysis.failures(rows, view.measure, view.phase), view, key=key)


def draw(
    values: pd.DataFrame,
    failed: pd.DataFrame,
    view: View,
    *,
    key: str,
    powers: Sequence[float] = (),
    formula: pd.DataFrame | None = None,
) -> None:
    """Draw values against T under the view's title.

    powers   draws reference lines of T^p for these
    formula  computed values, drawn as crosses (charts.scaling)
    """
    st.markdown(f"**{view.title}**")
    values, failed = _at_most(values, failed)
    if formula is not None:
        formula = formula[formula["method"].isin(set(values["method"]))]
    made = charts.scaling(
        values,
        failed,
        title=axis_title(view),
        unit=view.unit,
        theme=ui.theme(),
        order=data.methods_order(),
        references=analysis.reference_slopes(values, powers, BASELINE) if powers else None,
        formula=formula,
    )
    ui.chart(made, alt_text=alt_text(view, values, failed), key=key)
    hidden = int((values["value"] <= 0).sum())
    if hidden:
        st.caption(f"{hidden} values of 0 or less have no place on a logarithmic axis.")


def axis_title(view: View) -> str:
    """The unit, where the ticks do not name it, and the scale."""
    return "memory, log scale" if view.unit == "bytes" else f"{view.unit}, log scale"


def all_views(rows: pd.DataFrame, *, key: str) -> None:
    """Every view that has rows, two beside each other."""
    drawn = [view for view in VIEWS if _has(rows, view)]
    for view in beside(drawn):
        against_length(rows, view, key=f"{key}_{view.key}")


def beside(views: Sequence[View]) -> Iterator[View]:
    """Each view in turn, two of them beside each other; what is drawn for it stands in its column."""
    for first in range(0, len(views), 2):
        columns = st.columns(min(2, len(views)), gap="large")
        for column, view in zip(columns, views[first : first + 2], strict=False):
            with column:
                yield view


def failed_and_values(rows: pd.DataFrame, words: str = "Cells without a number.") -> None:
    """The tables that end a view: what failed, and folded away the numbers behind the plots."""
    failed = failure_table(rows)
    if not failed.empty:
        ui.section("Failed", words)
        ui.table(failed)
    with st.expander("Values"):
        ui.table(values_table(rows), height=420)


def _has(rows: pd.DataFrame, view: View) -> bool:
    failed = analysis.failures(rows, view.measure, view.phase)
    return not (analysis.measured(rows, view.metric, view.phase).empty and failed.empty)


def growth_table(rows: pd.DataFrame, views: Sequence[View] = VIEWS) -> pd.DataFrame:
    """Fitted growth of each view beside what the card claims, one line per method."""
    lines: dict[str, dict[str, str]] = {}
    for view in views:
        for fit in analysis.exponents(analysis.measured(rows, view.metric, view.phase)).itertuples():
            line = lines.setdefault(fit.method, claims(fit.method))
            line[view.title] = marks.exponent_text(fit.exponent, fit.low, fit.high)
    return pd.DataFrame(list(lines.values())).fillna("")


def claims(spec: str) -> dict[str, str]:
    """What the cards claim: growth of the time of a prefill, and of the state."""
    costs = [part.method.cost for part in parse_spec(spec).parts] if known(spec) else []
    return {
        "method": spec,
        "time claimed": " + ".join(cost.time for cost in costs),
        "state claimed": " + ".join(cost.state for cost in costs),
    }


def crossover_table(rows: pd.DataFrame, baseline: str, views: Sequence[View] = VIEWS) -> pd.DataFrame:
    """From which T each method stays below the baseline and by how much, one line per method."""
    lines: dict[str, dict[str, str]] = {}
    for view in views:
        timed = analysis.measured(rows, view.metric, view.phase)
        failed = analysis.failures(rows, view.measure, view.phase)
        for found in analysis.crossovers(timed, baseline, failed).itertuples():
            upto = marks.length_text(found.longest_T)
            start = f"not up to {upto}" if pd.isna(found.from_T) else f"from {marks.length_text(found.from_T)}"
            line = lines.setdefault(found.method, {"method": found.method})
            line[view.title] = f"{start} (×{found.ratio:.2f} at {upto})"
    return pd.DataFrame(list(lines.values())).fillna("")


def subtitle(setting: Any, rows: pd.DataFrame) -> str:
    """Where rows were measured and how many samples stand behind each value, as text."""
    return f"{data.setting_text(setting)}. {repeats(rows)}"


def repeats(rows: pd.DataFrame) -> str:
    """How many samples stand behind the values, in words."""
    counts = rows.loc[(rows["status"] == "ok") & (rows["n"] > 1), "n"]
    if counts.empty:
        return "Single values."
    low, high = int(counts.min()), int(counts.max())
    return f"{low} samples a value." if low == high else f"{low} to {high} samples a value."


def failure_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Failed cells: what, where, why."""
    failed = analysis.failures(rows)
    table = failed[["method", "measure", "phase", "T", "status", "reason"]]
    return table.sort_values(["method", "measure", "phase", "T"], kind="stable")


def values_table(rows: pd.DataFrame) -> pd.DataFrame:
    """The numbers behind the plots."""
    columns = ["method", "impl", "phase", "T", "metric", "value", "low", "high", "unit", "n", "stale"]
    return rows.loc[rows["status"] == "ok", columns]


def task_title(task: str) -> str:
    """The title of a quality task, or its name when its plugin is not installed."""
    found = catalog.load_catalog().tasks.get(task)
    return safe.cut(found.title if found else task)


def known(spec: str) -> bool:
    """Whether a spec can be read with what is installed."""
    try:
        parse_spec(spec)
    except LongAtlasError:
        return False
    return True


def default_methods(measured: pd.DataFrame, count: int = 8) -> list[str]:
    """What Compare shows at first: measured methods, vanilla in front, those measured most first, the demo's order.

    measured  columns method and cells
    """
    counts = dict(zip(measured["method"], measured["cells"], strict=True))
    names = sorted(data.names_with_rows(measured), key=lambda name: (name != BASELINE, -counts[name]))
    return names[:count]


def ready_methods() -> list[str]:
    return [m.name for m in catalog.load_catalog().methods.values() if catalog.method_status(m) == "ready"]


def _at_most(values: pd.DataFrame, failed: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    names = charts.in_order(data.methods_order(), values, failed)
    if len(names) > AT_MOST:
        st.caption(f"The first {AT_MOST} of {len(names)} methods; choose fewer to see the others.")
        keep = set(names[:AT_MOST])
        values, failed = values[values["method"].isin(keep)], failed[failed["method"].isin(keep)]
    return values, failed


def alt_text(view: View, values: pd.DataFrame, failed: pd.DataFrame) -> str:
    """What a view shows, in words."""
    parts = []
    for name, rows in values.groupby("method", sort=False):
        first, last = rows.iloc[0], rows.iloc[-1]
        parts.append(
            f"{name} from {marks.value_text(first['value'], view.unit)} at T = {first['T']} "
            f"to {marks.value_text(last['value'], view.unit)} at T = {last['T']}"
        )
    text = f"{view.title} against T, both axes logarithmic. {'; '.join(parts)}."
    return text + (f" {len(failed)} cells failed; they are in the table of failures." if len(failed) else "")
