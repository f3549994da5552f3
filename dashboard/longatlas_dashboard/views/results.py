"""Results: every row with its provenance, filtered by the URL, and out as CSV, JSON or Parquet."""

from __future__ import annotations

import importlib.util
import io
import json

import pandas as pd
import streamlit as st

from longatlas_dashboard import settings, ui

FILTERS = {"m": "method", "w": "measure", "p": "phase", "s": "status", "d": "device", "y": "dtype"}
FIRST = ["method", "measure", "phase", "T", "metric", "value", "unit", "low", "high", "status", "reason"]


def page() -> None:
    ui.header("Results", "One line per measured value; a cell that failed is a line too.")
    rows = ui.rows()
    if rows.empty:
        ui.empty(
            "The store is empty: nothing has been measured yet.",
            command="longatlas demo",
            page="" if settings.read().read_only else "run",
            label="Run something small",
        )
        return
    shown = _filtered(rows)
    newest = st.toggle("Only the newest row of each measurement", key="new", value=False, bind="query-params")
    if newest:
        shown = shown[shown["id"].isin(ui.latest()["id"])]
    st.caption(f"{len(shown):,} of {len(rows):,} rows · {ui.plain(ui.store().name)}")
    if shown.empty:
        ui.empty("No row matches. Take out a filter.")
        return
    flat = flatten(shown)
    ui.table(
        flat,
        height=560,
        column_config={"created": st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm:ss")},
    )
    _downloads(shown, flat)


def _filtered(rows: pd.DataFrame) -> pd.DataFrame:
    places = st.columns(3)
    shown = rows
    for number, (key, name) in enumerate(FILTERS.items()):
        options = sorted(set(rows[name]))
        with places[number % 3]:
            chosen = st.multiselect(name, options, key=key, bind="query-params", placeholder="all")
        if chosen:
            shown = shown[shown[name].isin(chosen)]
    return shown


def flatten(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows for a table: JSON columns as text, time as UTC, what matters most first."""
    frame = rows.assign(
        **{name: [json.dumps(value) for value in rows[name]] for name in ("options", "case", "versions")},
        created=pd.to_datetime(rows["created"], unit="s", utc=True),
    )
    rest = [name for name in frame.columns if name not in FIRST]
    return frame[[*FIRST, *rest]]


def _downloads(rows: pd.DataFrame, flat: pd.DataFrame) -> None:
    with st.container(horizontal=True):
        st.download_button(
            "CSV", flat.to_csv(index=False).encode(), "longatlas.csv", "text/csv", icon=":material/download:"
        )
        st.download_button(
            "JSON",
            rows.to_json(orient="records", indent=1).encode(),
            "longatlas.json",
            "application/json",
            icon=":material/download:",
        )
        if importlib.util.find_spec("pyarrow"):
            stream = io.BytesIO()
            flat.to_parquet(stream, index=False)
            st.download_button(
                "Parquet",
                stream.getvalue(),
                "longatlas.parquet",
                "application/vnd.apache.parquet",
                icon=":material/download:",
            )


page()
