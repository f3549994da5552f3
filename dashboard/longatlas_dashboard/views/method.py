"""Method: idea, equations, options, cost, departures, source, paper, its own plots, and the way to run it."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pandas as pd
import streamlit as st

from longatlas import catalog, measures
from longatlas.cards import Method
from longatlas.combination import as_combination
from longatlas.errors import LongAtlasError
from longatlas.harness import findings
from longatlas.measure.influence_map import Influence
from longatlas.words import BASELINE
from longatlas_dashboard import (
    charts,
    controls,
    data,
    job_view,
    marks,
    plots,
    safe,
    selection,
    settings,
    sources,
    takeaway,
    tree,
    ui,
)
from longatlas_dashboard.theme import DARK

TRAININGS = {"retrofit": "needs no training", "adapt": "tuned with the model", "train": "trained with the model"}


def page() -> None:
    atlas = catalog.load_catalog()
    name = controls.query("id")
    if not name:
        ui.header("Method", "Choose a method to read its page.")
        _chooser(atlas)
        return
    try:
        method = atlas.method(name)
    except LongAtlasError as error:
        _unknown(atlas, error)
        return
    _head(atlas, method)
    left, right = st.columns([3, 2], gap="large")
    with left:
        _idea(method)
    with right:
        _cost(method)
        _paper(atlas, method)
    _equations(method)
    _influence(method)
    _options(method)
    _measured(method)
    _verified(method)
    _source(method)


def _unknown(atlas: catalog.Catalog, error: LongAtlasError) -> None:
    ui.header("Method")
    st.error(safe.plain(str(error)), icon=":material/search_off:")
    ui.faults(atlas)
    _chooser(atlas)


def _chooser(atlas: catalog.Catalog) -> None:
    chosen = st.selectbox(
        "Method",
        list(atlas.methods),
        index=None,
        format_func=lambda name: safe.cut(f"{name}: {atlas.methods[name].title}"),
        placeholder="name or title",
        key="method_choice",
    )
    if chosen:
        ui.go("method", id=chosen)
    ui.link("taxonomy", "Or find it in the taxonomy", icon=":material/account_tree:")


def _head(atlas: catalog.Catalog, method: Method) -> None:
    st.title(safe.plain(method.title, safe.LINE), anchor=False)
    status = catalog.method_status(method)
    with st.container(horizontal=True, vertical_alignment="center"):
        good = status == "ready"
        st.badge(
            safe.plain(status),
            color="green" if good else "orange",
            icon=":material/check:" if good else ":material/block:",
        )
        st.badge(TRAININGS[method.training], color="gray")
        for slot in method.fills:
            st.badge(f"slot: {slot}", color="blue")
    node = atlas.taxonomy.node(method.family)
    with st.container(horizontal=True, vertical_alignment="center"):
        ui.link("taxonomy", safe.plain(node.title), icon=":material/account_tree:", node=node.path)
        ui.link("compare", "Compare with vanilla", icon=":material/stacked_line_chart:", m=_beside(method.name))
        if good and not settings.read().read_only:
            ui.link("run", "Run it", icon=":material/play_circle:", m=_beside(method.name))
    for _, remedy in catalog.obstacles(method):
        st.info(safe.plain(f"To run it here: {remedy}"), icon=":material/build:")


def _beside(name: str) -> str:
    return name if name == BASELINE else f"{BASELINE},{name}"


def _idea(method: Method) -> None:
    ui.section("Idea")
    st.text(method.summary)
    if method.deviations:
        ui.section("Departures from the paper")
        st.text(method.deviations)
    if method.source:
        ui.section("Checked against")
        st.text(method.source)


def _equations(method: Method) -> None:
    if method.equations:
        ui.section("Mathematics")
    for equation in method.equations:
        if "$" in equation:
            st.code(equation, language=None)
        else:
            st.latex(equation + r"\;")  # room for a slanted last letter, which else makes the line scroll


def _influence(method: Method) -> None:
    ui.section("What it attends to", "Found by differentiating its code: how much input j moves output i.")
    record = _finding("influence", method, "Compute the map", "A few seconds, in a process of its own.")
    if record is None:
        return
    found = Influence.from_dict(record["found"][0])
    left, right = st.columns([3, 2], gap="large")
    relative = found.relative
    with left:
        reach = max((i - j for i, row in enumerate(relative) for j, value in enumerate(row) if value > 0), default=0)
        about = (
            f"Influence of {found.tokens} input tokens on {found.tokens} outputs of {found.spec}; the farthest input "
            f"that matters lies {reach} tokens back. The values are in the table below it."
        )
        ui.chart(charts.influence_map(relative, theme=ui.theme()), alt_text=about, key="influence", width="content")
    with right:
        st.text(
            f"{found.spec}\n{found.tokens} tokens, {found.layers} layer, random weights, fp64.\n"
            "Options in tokens are scaled to the short sequence.\nBlank: no dependence at all."
        )
        with st.expander("Values"):
            frame = pd.DataFrame(relative)
            frame.columns = [str(name) for name in frame.columns]
            st.dataframe(frame, height=280, key="influence_values")
        st.code(f"longatlas influence {method.name}", language=None)


def _verified(method: Method) -> None:
    ui.section("Verified", "The conformance checks, against the reference and against what every method must hold.")
    record = _finding("verify", method, "Verify now", "Up to a minute or two, when nothing is being measured here.")
    if record is None:
        return
    results = record["found"][0]["checks"]
    red = [result for result in results if result["status"] == "failed"]
    counts = Counter(result["status"] for result in results)
    words = ", ".join(f"{counts[name]} {name}" for name in ("failed", "passed", "declared", "skipped") if counts[name])
    words += f" · took {marks.duration_text(record['seconds'])} · {job_view.age_text(record['at'])}"
    (st.error if red else st.success)(safe.plain(words), icon=":material/close:" if red else ":material/check:")
    ui.table(pd.DataFrame(results), key="verify_results")


def _finding(kind: str, method: Method, label: str, words: str) -> dict[str, Any] | None:
    """What is kept of a kind, or a button that finds it; None while there is nothing to show."""
    store, combination = data.store(), as_combination(method)
    record = findings.kept(store, kind, combination)
    if settings.read().read_only or catalog.method_status(method) != "ready":
        if record is None:
            ui.empty("It has not been computed yet.", command=f"longatlas {kind} {method.name}")
        return record
    with st.container(horizontal=True, vertical_alignment="center"):
        asked = st.button(label if record is None else "Again", key=f"find_{kind}", icon=":material/play_circle:")
        st.caption(words)
    if asked:
        try:
            with st.spinner("Working ..."):
                findings.find(store, kind, combination)
            st.rerun()
        except data.STORE_ERRORS as error:
            st.error(safe.plain(data.error_text(error)), icon=":material/error:")
    return record


def _options(method: Method) -> None:
    ui.section("Options")
    if not method.options:
        st.caption("None.")
        return
    lines = [
        {
            "option": option.name,
            "default": str(option.default),
            "unit": option.unit,
            "meaning": option.help,
            "rule": option.rule.words,
        }
        for option in method.options
    ]
    ui.table(pd.DataFrame(lines))


def _cost(method: Method) -> None:
    ui.section("Cost claimed")
    time, state = st.columns(2)
    time.metric("Time of a prefill", safe.plain(method.cost.time, safe.LINE))
    state.metric("State after T tokens", safe.plain(method.cost.state, safe.LINE))
    st.caption("T tokens, W window, N segment length, M memory length, C chunk. Fitted growth stands below.")
    st.caption(f"Implementations: {safe.texts(method.impls)} on {safe.texts(method.devices)}")


def _paper(atlas: catalog.Catalog, method: Method) -> None:
    ui.section("Paper")
    paper = tree.by_arxiv(atlas, method)
    if paper is None:
        address = f"https://arxiv.org/abs/{method.paper}" if method.paper[:4].isdigit() else method.paper
        if safe.web_address(address):
            st.link_button(safe.plain(method.paper, safe.LINE), address, icon=":material/open_in_new:")
        else:
            st.caption("No paper is named on the card.")
        return
    st.text(f"{paper.title}\n{paper.first_author} and others, {paper.year}")
    with st.container(horizontal=True):
        st.link_button(f"arXiv {paper.arxiv}" if paper.arxiv else "Paper", paper.address, icon=":material/open_in_new:")
        if safe.web_address(paper.code):
            st.link_button("Authors' code", paper.code, icon=":material/code:")
    with st.expander("BibTeX"):
        st.code(tree.bibtex(method.name, paper), language=None, wrap_lines=True)


def _measured(method: Method) -> None:
    ui.section("Measured")
    specs = [spec for spec in data.measured()["method"] if re.split(r"[:+]", spec)[0] == method.name]
    setting = selection.choose_setting(specs, measures.shaped(), key="on")
    if setting is None:
        ui.empty(
            "Nothing has been measured for this method yet.",
            command=f"longatlas run --methods {_beside(method.name)} --lengths 512,1024,2048",
        )
        return
    chosen = selection.rows_under(specs, measures.shaped(), setting, key="impl")
    st.caption(safe.plain(plots.subtitle(setting, chosen)))
    plots.all_views(chosen, key="method")
    ui.table(plots.growth_table(chosen))
    takeaway.of_view(specs, [(setting, chosen)], key="method")


def _source(method: Method) -> None:
    ui.section("Source")
    files = sources.source_files(method)
    if not files:
        st.caption("Its builders come from no file.")
        return
    # Streamlit's colours for code on a light ground, and its line numbers, have too little contrast.
    language = "python" if ui.theme() is DARK else None
    for tab, text in zip(st.tabs([safe.plain(name) for name in files]), files.values(), strict=True):
        tab.code(text, language=language, wrap_lines=True)


page()
