"""What a reader takes along from a view: its rows as a file, and the command and the plan that measure them."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from longatlas.errors import LongAtlasError
from longatlas.harness.plan import Plan
from longatlas.harness.plan_of import plan_of
from longatlas.store import queries
from longatlas.store.transfer import export_rows
from longatlas_dashboard import data, plots, safe

FORMATS = {
    "csv": ("CSV", "text/csv"),
    "parquet": ("Parquet", "application/vnd.apache.parquet"),
    "json": ("JSON", "application/json"),
}
Part = tuple[Any, pd.DataFrame]
# What tells the rows of a view among those of its methods and setting.
SHOWN = ("method", "measure", "phase", "impl", "policy")


def of_view(methods: Sequence[str], parts: Sequence[Part], *, key: str) -> None:
    """The rows behind a view and the plans that measure them, folded away at its end.

    parts  settings with the rows of each that are shown
    """
    parts = [(setting, rows) for setting, rows in parts if len(rows)]
    if not parts:
        return
    with st.expander("Take it along: rows, command, YAML", icon=":material/ios_share:"):
        downloads(lambda: pd.concat([_whole(methods, *part) for part in parts]), key=key)
        for number, (setting, rows) in enumerate(parts):
            if len(parts) > 1:
                st.markdown(f"**{safe.plain(', '.join(dict.fromkeys(rows['measure'])))}**")
            try:
                plan = plan_of([spec for spec in methods if plots.known(spec)], setting, rows)
            except LongAtlasError as error:
                st.caption(safe.plain(f"No plan measures just this: {error}"))
            else:
                of_plan(plan, key=f"{key}_{number}")
        st.caption("A chart's own menu, at its upper right, saves it as PNG; the page's address shows this view.")


def _whole(methods: Sequence[str], setting: Any, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of a part with all their columns and samples, as the store has them."""
    chosen = (tuple(methods), tuple(dict.fromkeys(rows["measure"])), int(setting["setting"]), str(setting["level"]))
    found: pd.DataFrame = queries.rows_of(data.store(), *chosen, whole=True)
    return found.merge(rows[list(SHOWN)].drop_duplicates(), on=list(SHOWN))


def of_plan(plan: Plan, *, key: str) -> None:
    """A plan as command and as YAML, with its hash."""
    st.caption(f"The same plan, wherever it is started, has the hash `{plan.hash}`.")
    command, file = st.tabs(["Command", "YAML"])
    command.code(shlex.join(plan.to_command()), language=None, wrap_lines=True)
    file.code(plan.to_yaml(), language=None)
    file.download_button("plan.yaml", plan.to_yaml(), "plan.yaml", "text/yaml", on_click="ignore", key=f"{key}_yaml")


def downloads(rows: Callable[[], pd.DataFrame], *, key: str, name: str = "longatlas") -> None:
    """Buttons that make a file of the rows when they are pressed; `longatlas results import` takes it."""
    with st.container(horizontal=True):
        for suffix, (label, mime) in FORMATS.items():
            st.download_button(
                label,
                lambda suffix=suffix: _file(rows(), suffix),
                f"{name}.{suffix}",
                mime,
                icon=":material/download:",
                on_click="ignore",
                key=f"{key}_{suffix}",
            )


def _file(rows: pd.DataFrame, suffix: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"longatlas.{suffix}"
        export_rows(rows, path)
        return path.read_bytes()
