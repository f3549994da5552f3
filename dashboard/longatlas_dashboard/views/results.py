"""Results: every row with its provenance, filtered by the URL, and out as CSV, JSON or Parquet."""

from __future__ import annotations

import json

import pandas as pd
import streamlit as st

from longatlas.store import queries
from longatlas_dashboard import settings, takeaway, ui

FILTERS = {"m": "method", "w": "measure", "p": "phase", "l": "level", "s": "status", "d": "device", "y": "dtype"}
FIRST = ["method", "measure", "phase", "T", "metric", "value", "unit", "low", "high", "status", "reason"]
MOST = 200_000  # rows that a download holds; `longatlas results export` writes any number


def page() -> None:
    ui.header("Results", "One line per measured value; a cell that failed is a line too.")
    total = ui.ask("counts")[0]
    if not total:
        ui.empty(
            "The store is empty: nothing has been measured yet.",
            command="longatlas demo",
            page="" if settings.read().read_only else "run",
            label="Run something small",
        )
        return
    chosen = _filters()
    newest = st.toggle("Only the newest row of each measurement", key="new", value=False, bind="query-params")
    found = queries.count(ui.store(), chosen, latest=newest)
    st.caption(f"{found:,} of {total:,} rows · {ui.plain(ui.store().name)}")
    if not found:
        ui.empty("No row matches. Take out a filter.")
        return
    number = _page_number(found)
    shown = queries.page(ui.store(), chosen, latest=newest, number=number)
    ui.table(
        flatten(shown),
        height=560,
        column_config={"created": st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm:ss")},
    )
    _downloads(chosen, newest, found)


def _filters() -> dict[str, list[str]]:
    places = st.columns(4)
    chosen = {}
    for number, (key, name) in enumerate(FILTERS.items()):
        with places[number % 4]:
            options = ui.ask("values", name)
            chosen[name] = st.multiselect(name, options, key=key, bind="query-params", placeholder="all")
    return chosen


def _page_number(found: int) -> int:
    """Which page is shown, from 0; nothing to choose where there is one."""
    pages = -(-found // queries.PAGE)
    if pages == 1:
        return 0
    label = f"Page of {pages:,}, {queries.PAGE} rows each, the newest first"
    return int(st.number_input(label, 1, pages, 1, key="page_number")) - 1


def flatten(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows for a table: JSON columns as text, time as UTC, what matters most first."""
    frame = rows.assign(
        **{name: [json.dumps(value) for value in rows[name]] for name in ("options", "case", "versions")},
        created=pd.to_datetime(rows["created"], unit="s", utc=True),
    )
    rest = [name for name in frame.columns if name not in FIRST]
    return frame[[*FIRST, *rest]]


def _downloads(chosen: dict[str, list[str]], newest: bool, found: int) -> None:
    if found > MOST:
        st.caption(f"More than {MOST:,} rows: filter them, or write them all with `longatlas results export`.")
        return
    takeaway.downloads(lambda: queries.page(ui.store(), chosen, latest=newest, size=found), key="rows")


page()
