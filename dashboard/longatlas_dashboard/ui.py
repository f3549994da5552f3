"""Pieces of pages: links, headings, empty states, charts, tables, and what is shown when a page fails."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
import streamlit as st

from longatlas.catalog import Catalog
from longatlas_dashboard import data, safe
from longatlas_dashboard.theme import LIGHT, THEMES, Theme

# Not called `pages`: Streamlit runs the scripts of such a folder by itself, before the token is asked for.
PAGES = Path(__file__).with_name("views")


def theme() -> Theme:
    """The theme the viewer sees."""
    return THEMES.get(str(st.context.theme.type), LIGHT)


def link(page: str, label: str, *, icon: str | None = None, help: str | None = None, **query: Any) -> None:
    """A link to a page (its file name without .py) with query parameters."""
    parameters = {key: str(value) for key, value in query.items() if value not in ("", None)}
    st.page_link(PAGES / f"{page}.py", label=label, icon=icon, help=help, query_params=parameters or None)


def go(page: str, **query: Any) -> None:
    """Leave for another page."""
    st.switch_page(PAGES / f"{page}.py", query_params={key: str(value) for key, value in query.items()})


def header(title: str, words: str = "") -> None:
    st.title(title, anchor=False)
    if words:
        st.markdown(words)


def section(title: str, words: str = "") -> None:
    st.header(title, anchor=False)
    if words:
        st.caption(words)


def empty(words: str, *, command: str = "", page: str = "", label: str = "", **query: Any) -> None:
    """What is missing, and the one command or link that mends it."""
    with st.container(border=True):
        st.markdown(words)
        if page:
            link(page, label, icon=":material/arrow_forward:", **query)
        if command:
            st.code(command, language=None, wrap_lines=True)


def faults(atlas: Catalog) -> None:
    """A line for each plugin and each card that is broken, and so is missing here."""
    for fault in atlas.faults:
        card = f"{safe.texts([fault.card])} of plugin " if fault.card else "Plugin "
        words = f"{card}{safe.texts([fault.plugin])} is broken and was left out: {safe.plain(fault.error)}"
        st.warning(words, icon=":material/extension_off:")


def chart(made: alt.LayerChart, *, alt_text: str, key: str, **options: Any) -> Any:
    """Draw a chart, as wide as there is room, with its text for those who cannot see it."""
    return st.altair_chart(made, theme=None, alt=alt_text, key=key, **{"width": "stretch", **options})


def table(frame: pd.DataFrame, *, key: str | None = None, **options: Any) -> Any:
    return st.dataframe(frame, hide_index=True, width="stretch", key=key, placeholder="", **options)


def guarded(page: Callable[[], None]) -> None:
    """Run a page; what goes wrong is a message with its remedy, never a traceback."""
    try:
        page()
    except Exception as error:
        if not isinstance(error, data.STORE_ERRORS):
            _log_exception()
        st.error(safe.plain(data.error_text(error)), icon=":material/error:")


def _log_exception() -> None:

    logging.getLogger("longatlas_dashboard").exception("a page failed")
