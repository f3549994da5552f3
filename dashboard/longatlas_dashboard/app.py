"""Entry script: asks for the token where one is set, then shows the page of the URL."""

from __future__ import annotations

import gc

import streamlit as st

from longatlas_dashboard import gate, selection, settings, ui

# A material icon here would be fetched from the web; an emoji is drawn by the browser.
st.set_page_config(page_title="longatlas", page_icon="🗺️", layout="wide")

COMPARING = [(name, title, icon) for name, (title, icon) in selection.COMPARING.items()]
GROUPS = {
    "Explore": (
        ("home", "Home", "home"),
        ("taxonomy", "Taxonomy", "account_tree"),
        ("method", "Method", "article"),
        COMPARING[0],
    ),
    "Measure": (("run", "Run", "play_circle"), ("jobs", "Jobs", "checklist")),
    "Evidence": (*COMPARING[1:], ("results", "Results", "table"), ("methodology", "Methodology", "straighten")),
}


def pages() -> dict[str, list[st.Page]]:
    """The pages by group."""
    return {
        group: [
            st.Page(
                ui.PAGES / f"{name}.py",
                title=title,
                icon=f":material/{icon}:",
                url_path=None if name == "home" else name,
                default=name == "home",
            )
            for name, title, icon in members
        ]
        for group, members in GROUPS.items()
    }


def draw_menu(listed: dict[str, list[st.Page]], read_only: bool) -> None:
    """The pages in their groups. Streamlit's own menu of groups is no list that a screen reader can walk.

    A read-only dashboard does not list Run; a shared address of it still opens, and says why.
    """
    for group, members in listed.items():
        st.caption(group)
        with st.container(gap="xxsmall"):
            for member in members:
                if not (read_only and member.url_path == "run"):
                    st.page_link(member)


@st.cache_resource(show_spinner=False)
def settle() -> None:
    """Once, after the first page: Streamlit collects garbage after every script, and all that is loaded for good need
    not be looked through each time."""
    gc.collect()
    gc.freeze()


given = settings.read()
known = gate.passed(given.token)
listed = pages()
page = st.navigation(listed, position="hidden")
if not known:
    gate.ask()
else:
    with st.sidebar:
        draw_menu(listed, given.read_only)
    if given.read_only:
        st.sidebar.caption("Read-only: results are shown, nothing is started or changed.")
    ui.guarded(page.run)
    settle()
