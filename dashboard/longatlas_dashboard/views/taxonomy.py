"""Taxonomy: the survey's tree as an icicle and as text; papers with status; the way to Method and Compare."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from longatlas import catalog
from longatlas.errors import LongAtlasError
from longatlas.taxonomy import Node, Section
from longatlas_dashboard import charts, controls, safe, tree, ui

PAGE_SIZE = 24
TREE_HEIGHT = 620  # pixels
TABS = {"map": "Map", "text": "Text tree", "evaluation": "Evaluation", "toolkits": "Toolkits"}
_BADGES = {
    tree.RUNNABLE: ("green", "play_arrow"),
    tree.NOT_HERE: ("orange", "block"),
    tree.DESCRIBED: ("gray", "article"),
}


def page() -> None:
    atlas = catalog.load_catalog()
    found = tree.entries(atlas)
    listed = [entry.paper for entry in found if entry.paper]
    added = sum(paper.added for paper in listed)
    different = len({paper.address for paper in listed})
    ui.header(
        "Taxonomy",
        f"{len(atlas.taxonomy.leaves)} leaves with {len(listed) - added} entries of the survey "
        f"[arXiv {atlas.taxonomy.arxiv}]({atlas.taxonomy.url}) and {added} more: {different} papers. "
        "Numbers count what runs here.",
    )
    if "node_chosen" in st.session_state:
        controls.set_query(node=st.session_state.pop("node_chosen"))
    path = controls.query("node")
    try:
        node = atlas.taxonomy.node(path) if path else None
    except LongAtlasError as error:
        st.error(safe.plain(str(error)), icon=":material/search_off:")
        path, node = "", None
    for name, tab in zip(TABS, controls.tabs(TABS, key="view"), strict=True):
        if tab.open:
            with tab:
                _view(name, node, found)
    _list(tree.under(found, path))


def _view(name: str, node: Node | None, found: list[tree.Entry]) -> None:
    """What a tab shows: the tree and its chosen node, as a picture or as text, or a chapter of the survey."""
    taxonomy = catalog.load_catalog().taxonomy
    if name == "map":
        _icicle(node.path if node else "")
        _node(node)
    elif name == "text":
        left, right = st.columns([3, 2], gap="large")
        with left, st.container(height=TREE_HEIGHT):
            for root in taxonomy.roots:
                _branch(root, found, node)
        with right:
            _node(node)
    elif name == "evaluation":
        _chapter(taxonomy.evaluation, "e")
    else:
        _chapter(taxonomy.toolkits, "k")


def _icicle(path: str) -> None:
    frame = tree.icicle_frame(catalog.load_catalog())
    made = charts.icicle(frame, chosen=path, theme=ui.theme())
    about = "The survey's taxonomy, families at the left and leaves at the right, as in the tab Text tree."
    ui.chart(made, alt_text=about, key="icicle", on_select=_clicked, selection_mode="node")


def _clicked() -> None:
    """Remember which node was clicked; a click beside the boxes chooses the whole tree."""
    chosen = st.session_state["icicle"]["selection"].get("node", [])
    _choose_node(chosen[0]["path"] if chosen else "")


def _chapter(chapter: Section, key: str) -> None:
    """A chapter of the survey beside its tree: datasets, metrics, models, or libraries, systems, compilers."""
    st.text(chapter.summary)
    table = tree.resource_frame(chapter)
    kinds = list(dict.fromkeys(table["kind"]))
    chosen = controls.several("Kinds", kinds, key=key)
    shown = table[table["kind"].isin(chosen or kinds)].dropna(axis="columns", how="all")
    address = st.column_config.LinkColumn("address", display_text="open")
    ui.table(shown, height=420, column_config={"address": address})


def _branch(node: Node, found: list[tree.Entry], chosen: Node | None) -> None:
    inside = tree.under(found, node.path)
    ready = sum(entry.status == tree.RUNNABLE for entry in inside)
    depth = node.path.count("/")
    with st.container(horizontal=True, gap="small"):
        if depth:
            st.space(28 * depth)
        words = f"{safe.plain(node.title)}  ({ready} of {len(inside)})"
        if node == chosen:
            _way(f"**{words}**", node.path, "tree", ":material/arrow_right:")
        else:
            _way(words, node.path, "tree")
    for child in node.children:
        _branch(child, found, chosen)


def _node(node: Node | None) -> None:
    if node is None:
        ui.section("The whole tree", "Choose a node of the tree to narrow the list below.")
        return
    ui.section(safe.plain(node.title))
    steps = node.path.split("/")
    with st.container(horizontal=True, vertical_alignment="center"):
        _way("Whole tree", "", "above", ":material/account_tree:")
        for count in range(1, len(steps)):
            above = catalog.load_catalog().taxonomy.node("/".join(steps[:count]))
            _way(safe.plain(above.title), above.path, "above", ":material/chevron_right:")
    st.text(node.summary)
    st.caption(f"Changes the decoder's `{node.module}` · path `{node.path}`")


def _way(label: str, path: str, place: str, icon: str | None = None) -> None:
    """A button that chooses a node: Streamlit's links do not lead to the page that they stand on."""
    st.button(label, type="tertiary", icon=icon, on_click=_choose_node, args=(path,), key=f"{place}_{path}")


def _choose_node(path: str) -> None:
    st.session_state["node_chosen"] = path


def _list(found: list[tree.Entry]) -> None:
    left, right = st.columns([2, 3], vertical_alignment="bottom")
    words = left.text_input("Search", key="q", bind="query-params", placeholder="name, title, author, year")
    with right:
        statuses = controls.several("Status", tree.PAPER_STATUSES, key="s")
    left, right = st.columns([2, 3], vertical_alignment="bottom")
    with right:
        parts = controls.several("Changes the decoder's", list(dict.fromkeys(e.node.module for e in found)), key="part")
    with left:
        look = controls.segments("Show as", ("cards", "table"), key="as", default="cards")
    shown = [e for e in tree.matching(found, words or "", statuses) if not parts or e.node.module in parts]
    if not shown:
        ui.empty("No paper or method here matches. Clear the search or the status.")
        return
    _choose(shown)
    if look == "table":
        link = st.column_config.LinkColumn("page", display_text="open")
        paper = st.column_config.LinkColumn("paper", display_text="read")
        ui.table(tree.entry_frame(shown), height=620, column_config={"page": link, "paper": paper})
        return
    pages = (len(shown) + PAGE_SIZE - 1) // PAGE_SIZE
    number = 1
    if pages > 1:
        number = controls.segments("Page", range(1, pages + 1), key="page", default=1)
    start = (min(number, pages) - 1) * PAGE_SIZE
    _cards(shown[start : start + PAGE_SIZE])


def _choose(shown: list[tree.Entry]) -> None:
    names = list(dict.fromkeys(e.method.name for e in shown if e.method and e.status == tree.RUNNABLE))
    if not names:
        return
    left, right = st.columns([4, 1], vertical_alignment="bottom")
    with left:
        chosen = controls.many("Compare", names, key="m", hint="choose several methods")
    with right:
        if chosen:
            ui.link("compare", f"Compare {len(chosen)}", icon=":material/stacked_line_chart:", m=",".join(chosen))


def _cards(shown: Sequence[tree.Entry]) -> None:
    """Three beside each other, row by row, so that on a narrow screen the order stays."""
    for first in range(0, len(shown), 3):
        for column, entry in zip(st.columns(3), shown[first : first + 3], strict=False):
            with column, st.container(border=True, height="stretch"):
                _card(entry)


def _card(entry: tree.Entry) -> None:
    colour, icon = _BADGES[entry.status]
    with st.container(horizontal=True, vertical_alignment="center"):
        if entry.method:
            ui.link("method", f"**{safe.plain(entry.name, safe.LINE)}**", id=entry.method.name)
        else:
            st.markdown(f"**{safe.plain(entry.name)}**")
        st.badge(entry.status, color=colour, icon=f":material/{icon}:")
    if entry.paper:
        st.text(entry.paper.title)
        address = safe.web_address(entry.paper.address)
        source = f"[{'arXiv ' + entry.paper.arxiv if entry.paper.arxiv else 'paper'}]({address})" if address else ""
        code = f" · [code]({entry.paper.code})" if safe.web_address(entry.paper.code) else ""
        # Not a caption: it fades its links until they cannot be read.
        st.markdown(f":gray[{safe.plain(entry.paper.first_author)}, {entry.paper.year}] · {source}{code}")
    elif entry.method:
        st.text(safe.cut(entry.method.summary, 400))
    st.caption(safe.plain(entry.node.title))


page()
