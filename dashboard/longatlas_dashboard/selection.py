"""What the comparing pages share: the methods in the URL, what of them is not measured, and the way to each other."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from longatlas_dashboard import plots, settings, ui

# Pages that show a set of methods, by their file names.
COMPARING = {
    "compare": ("Compare", "stacked_line_chart"),
    "scaling": ("Scaling", "trending_up"),
    "memory": ("Memory", "memory"),
    "trade_off": ("Trade-off", "scatter_plot"),
    "retrieval": ("Retrieval", "grid_on"),
}


def choose(page: str) -> list[str]:
    """Let the reader choose methods; those of the URL at first, else the most measured. [] after saying what to do."""
    found = ui.measured()
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
    chosen = st.multiselect("Methods", options, default=wanted or plots.default_methods(found), key=f"{page}_methods")
    if not unknown:
        ui.set_query(m=",".join(chosen))
    _other_pages(page, chosen)
    if chosen:
        _missing(chosen, found)
        return chosen
    ui.empty(
        "Choose methods above. Nothing has been measured yet." if found.empty else "Choose methods above.",
        command="longatlas demo" if found.empty else "",
    )
    return []


def nothing_measured(what: str, methods: Sequence[str], measure: str, **options: str) -> None:
    """Say that none of the methods has been measured so, with the one command that does."""
    known = [spec for spec in methods if plots.known(spec)]
    more = "".join(f" --{name} {value}" for name, value in options.items())
    ui.empty(
        f"No {what} has been measured for these methods.",
        command=f"longatlas run --methods {','.join(known)} --measure {measure}{more}" if known else "longatlas demo",
        page="" if settings.read().read_only else "run",
        label="Run it here",
        m=",".join(known),
        w=measure,
    )


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
        st.info(f"Not measured yet: {ui.texts(missing)}.", icon=":material/hourglass_empty:")
        if not settings.read().read_only:
            ui.link("run", "Run them", icon=":material/play_circle:", m=",".join(missing))
