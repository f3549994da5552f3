"""What pages that show measured methods share: methods, setting and implementation to choose, and the way on."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from longatlas.harness import analysis
from longatlas.harness.plan import Plan
from longatlas.store import queries
from longatlas_dashboard import controls, data, plan_url, plots, safe, settings, ui

STALE = "The code that measured these numbers has changed since, or is not installed any more."
# Pages that show a set of methods, by their file names.
COMPARING = {
    "compare": ("Compare", "stacked_line_chart"),
    "scaling": ("Scaling", "trending_up"),
    "memory": ("Memory", "memory"),
    "trade_off": ("Trade-off", "scatter_plot"),
    "retrieval": ("Retrieval", "grid_on"),
}


def choose_methods(page: str) -> list[str]:
    """Let the reader choose methods; those of the URL at first, else the most measured. [] after saying what to do."""
    found = data.measured()
    measured = data.names_with_rows(found)
    asked = controls.query_list("m")
    unknown = [spec for spec in asked if spec not in measured and not plots.known(spec)]
    if unknown:
        st.error(
            f"Not known here: {safe.texts(unknown)}. Choose from the list; "
            "a method of a plugin appears when the plugin is installed.",
            icon=":material/search_off:",
        )
    wanted = [spec for spec in asked if spec not in unknown]
    options = list(dict.fromkeys([*measured, *wanted, *plots.ready_methods()]))
    chosen = st.multiselect("Methods", options, default=wanted or plots.default_methods(found), key=f"{page}_methods")
    if not unknown:
        controls.set_query(m=",".join(chosen))
    _other_pages(page, chosen)
    if chosen:
        _missing(chosen, found)
        return chosen
    ui.empty(
        "Choose methods above. Nothing has been measured yet." if found.empty else "Choose methods above.",
        command="longatlas demo" if found.empty else "",
    )
    return []


def nothing_measured(what: str, methods: Sequence[str], *measure: str, **values: Any) -> None:
    """Say that none of the methods has been measured so, with the one command that does; `values` of its plan."""
    known = tuple(spec for spec in methods if plots.known(spec))
    words = f"No {what} has been measured for these methods."
    if not known:
        ui.empty(words, command="longatlas demo")
        return
    plan = Plan(known, measure=measure, **values)
    page = "" if settings.read().read_only else "run"
    ui.empty(words, command=shlex.join(plan.to_command()), page=page, label="Run it here", **plan_url.query_of(plan))


def _other_pages(page: str, methods: Sequence[str]) -> None:
    with st.container(horizontal=True):
        for name, (title, icon) in COMPARING.items():
            if name != page:
                ui.link(name, title, icon=f":material/{icon}:", m=",".join(methods))


def _missing(methods: list[str], measured: pd.DataFrame) -> None:
    missing = [name for name in methods if name not in set(measured["method"])]
    if not missing:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.info(f"Not measured yet: {safe.texts(missing)}.", icon=":material/hourglass_empty:")
        if not settings.read().read_only:
            ui.link("run", "Run them", icon=":material/play_circle:", m=",".join(missing))


def rows_under(
    methods: Iterable[str], measures: Iterable[str], setting: Any, phase: str = "", *, key: str = ""
) -> pd.DataFrame:
    """The newest rows of methods under one setting, a row of settings(), with one value for each method and T.

    key  where a method was measured in several implementations, the reader may choose one, by this name in the URL
    """
    chosen = (tuple(methods), tuple(measures), int(setting["setting"]), str(setting["level"]))
    found = queries.with_stale(data.ask("rows_of", *chosen), data.sources())
    if phase:
        found = found[found["phase"] == phase]
    newest = analysis.newest_source(found)
    if len(newest) < len(found):
        names = data.names_with_rows(found[~found["id"].isin(newest["id"])])
        st.caption(f"Values of an earlier version of {safe.texts(names)} are left out; measure again for all T.")
    tell_stale(newest)
    return analysis.one_value_each(newest, _variant_choice(newest, key) if key else "")


def tell_stale(rows: pd.DataFrame) -> None:
    """Say which of the methods shown were measured by other code than today's, with the way to measure them again."""
    names = data.names_with_rows(rows[rows["stale"]])
    if not names:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.warning(f"Stale: {safe.texts(names)}. {STALE}", icon=":material/history:")
        known = [name for name in names if plots.known(name)]
        if known and not settings.read().read_only:
            ui.link("run", "Measure again", icon=":material/play_circle:", m=",".join(known))


def _variant_choice(rows: pd.DataFrame, key: str) -> str:
    several = [] if rows.empty else analysis.variants(rows)
    if not several:
        return ""
    words = "Implementation, of methods that were measured in several"
    return controls.segments(words, several, key=key, name=str) or ""


def choose_setting(
    methods: Iterable[str], measures: Iterable[str], *, key: str, phase: str = "", label: str = "Measured on"
) -> pd.Series | None:
    """Let the reader choose the machine, case and level whose rows are shown, newest first; None without rows.

    At first it is the newest of those that have most of the methods.
    """
    found = data.ask("settings", tuple(methods), tuple(measures), phase)
    if found.empty:
        return None
    if len(found) == 1:
        return found.iloc[0]
    place = controls.selected(
        label,
        range(len(found)),
        key=key,
        words=lambda i: data.setting_text(found.iloc[i]),
        name=lambda i: f"{found.iloc[i]['setting']}{found.iloc[i]['level'][:1]}",
        default=int(found["methods"].to_numpy().argmax()),
    )
    return found.iloc[place]
