"""Home: what this is, three ways in, what is here, and the newest runs."""

from __future__ import annotations

import pandas as pd
import psutil
import streamlit as st

from longatlas import catalog, identity
from longatlas.harness import jobs
from longatlas.words import DEVICES
from longatlas_dashboard import data, job_view, marks, safe, settings, ui, which

WAYS = (
    ("taxonomy", "Find a method", "Walk the survey's tree: what each family changes, which papers run here."),
    ("compare", "Compare methods", "Time, memory and quality of the measured methods, side by side."),
    ("run", "Run here", "Measure methods on this machine; finished cells are kept."),
)


def page() -> None:
    ui.header(
        "longatlas",
        "The executable survey of long-context Transformers: every method has a place, a card and, where it "
        "runs, a check and a measurement on your own machine.",
    )
    _ways_in()
    _counts()
    which.draw()
    left, right = st.columns([3, 2], gap="large")
    with left:
        _newest_runs()
    with right:
        _machine()
        ui.faults(catalog.load_catalog())


def _ways_in() -> None:
    ways = [way for way in WAYS if not (way[0] == "run" and settings.read().read_only)]
    for column, (name, title, words) in zip(st.columns(len(ways)), ways, strict=True):
        with column, st.container(border=True, height="stretch"):
            ui.link(name, f"**{title}**", icon=":material/arrow_forward:")
            st.caption(words)


def _counts() -> None:
    atlas = catalog.load_catalog()
    papers = {paper.address for node in atlas.taxonomy.walk() for paper in node.papers}
    ready = sum(catalog.method_status(method) == "ready" for method in atlas.methods.values())
    here = data.ask("methods_on", tuple(map(identity.machine_name, DEVICES)), data.sources())
    facts = (
        ("Papers described", len(papers), "Different papers in the taxonomy; a few stand at two places."),
        ("Methods ready here", ready, "Methods that can run on this machine."),
        (
            "Methods verified",
            _names(here[here["checked"]]),
            "Compared with their reference here, before a time was taken.",
        ),
        ("Methods measured", _names(here), "Methods with a number that this machine measured, with any options."),
    )
    for column, (label, value, about) in zip(st.columns(len(facts)), facts, strict=True):
        column.metric(label, f"{value:,}", help=about)


def _names(rows: pd.DataFrame) -> int:
    """How many methods, whatever their options and combinations."""
    return len({part.partition(":")[0] for spec in rows["method"] for part in spec.split("+")})


def _newest_runs() -> None:
    """Jobs of the queue, and cells that were finished one after the other, wherever they were started."""
    ui.section("Newest runs")
    found = jobs.jobs(data.store(), limit=4)
    runs = data.ask("runs").head(4)
    if not found and runs.empty:
        ui.empty(
            "Nothing has been run yet.",
            command="longatlas demo",
            page="" if settings.read().read_only else "run",
            label="Run something small",
        )
    for job in found:
        with st.container(horizontal=True, vertical_alignment="center"):
            ui.link("jobs", f"Job {job.id}", job=job.id)
            job_view.badge(job)
            st.caption(safe.plain(job_view.words(job)))
    starts = [f"{start:.0f}" for start in data.ask("runs")["start"]]
    for run, start, before in zip(runs.to_dict("records"), starts, [*starts[1:], ""], strict=False):
        with st.container(horizontal=True, vertical_alignment="center"):
            if before:
                ui.link("results", "What changed", two="true", a=before, b=start)
            else:
                ui.link("results", "Results")
            st.caption(safe.plain(data.run_text(run)))


def _machine() -> None:
    ui.section("This machine")
    facts = identity.facts()
    memory = marks.bytes_text(psutil.virtual_memory().total)
    lines = (
        f"{facts['machine']}, {memory} memory",
        f"Python {facts['python']}, torch {facts['torch']}, longatlas {facts['longatlas']}",
        f"Store: {data.store().name}",
    )
    st.text("\n".join(lines))


page()
