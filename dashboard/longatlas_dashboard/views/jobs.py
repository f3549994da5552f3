"""Jobs: the queue, and one job with its grid of cells, time left, log and cancel, from any session."""

from __future__ import annotations

import shlex
from collections.abc import Callable

import pandas as pd
import streamlit as st

from longatlas.errors import LongAtlasError
from longatlas.harness import jobs
from longatlas.store import Store
from longatlas.words import FAILED
from longatlas_dashboard import charts, controls, data, job_view, marks, safe, settings, ui

POLL_SECONDS = 2


def page() -> None:
    ui.header("Jobs")
    if "queue_error" in st.session_state:
        st.error(safe.plain(st.session_state.pop("queue_error")), icon=":material/error:")
    store = data.store()
    jobs.keep_going(store)
    found = jobs.jobs(store)
    if not found:
        ui.empty(
            "No job has been started from this store.",
            page="" if settings.read().read_only else "run",
            label="Start one",
            command="longatlas demo",
        )
        return
    number = controls.query("job")
    job = _asked(store, number) if number else found[0]
    if any(each.status in jobs.ACTIVE for each in found):
        st.session_state["jobs_seen"] = jobs.pulse(store)
        st.fragment(_poll, run_every=POLL_SECONDS)()
    if job is not None:
        _job(store, job)
    _queue(found)


def _asked(store: Store, number: str) -> jobs.Job | None:
    try:
        wanted = safe.whole_number(number)
        if wanted is None:
            raise LongAtlasError(f"'{safe.cut(number, 40)}' is no job number; choose one from the list below")
        return jobs.job(store, wanted)
    except LongAtlasError as error:
        st.error(safe.plain(str(error)), icon=":material/search_off:")
        return None


def _poll() -> None:
    """Look every two seconds; draw the page again only when something has changed."""
    try:
        now = jobs.pulse(data.store())
    except Exception as error:
        st.caption(safe.plain(f"The store cannot be read now ({type(error).__name__}); trying again."))
        return
    if now != st.session_state.get("jobs_seen"):
        st.rerun()


def _job(store: Store, job: jobs.Job) -> None:
    grid = _cells(store, job)
    failed = int(grid["status"].isin(FAILED).sum())
    with st.container(horizontal=True, vertical_alignment="center"):
        st.header(f"Job {job.id}", anchor=False)
        job_view.badge(job)
        if job.status in jobs.ACTIVE and not settings.read().read_only:
            st.button("Cancel", icon=":material/stop_circle:", on_click=_cancel, args=(job.id,), key="cancel")
        if job.status in (jobs.FAILED, jobs.CANCELLED) and not settings.read().read_only:
            st.button("Run again", icon=":material/replay:", on_click=_again, args=(job,), key="again")
        if job.status not in jobs.ACTIVE and failed and not settings.read().read_only:
            words = f"Retry the {failed} failed"
            st.button(words, icon=":material/replay:", on_click=_retry, args=(job.id,), key="retry")
        if job.plan is not None:
            methods = ",".join(job.plan.methods)
            ui.link("compare", "Compare its methods", icon=":material/stacked_line_chart:", m=methods)
    if job.error:
        st.error(safe.plain(job.error), icon=":material/error:")
    share = job.done / job.total if job.total else float(job.status == jobs.DONE)
    now = f"measuring {job.current}" if job.current and job.status == jobs.RUNNING else job.status
    words = [f"{job.done} of {job.total} cells" if job.total else "", now, job_view.left_text(job)]
    st.progress(min(share, 1.0), safe.plain(" · ".join(word for word in words if word)))
    if job.status == jobs.QUEUED:
        st.caption("It starts when the jobs before it have ended: two at a time would disturb each other's timings.")
    _grid(job, grid)
    log, plan = st.tabs(["Log", "Plan"])
    with log:
        path = jobs.log_path(store)
        st.caption(safe.plain(str(path)))
        st.code(job_view.log_tail(path) or "nothing yet", language=None, wrap_lines=True)
    with plan:
        if job.plan is not None:
            st.code(shlex.join(job.plan.to_command()), language=None, wrap_lines=True)
        st.code(job.plan_text, language=None)


def _cells(store: Store, job: jobs.Job) -> pd.DataFrame:
    try:
        return job_view.grid(store, job)
    except LongAtlasError as error:
        st.warning(safe.plain(f"Its cells cannot be listed: {error}"), icon=":material/warning:")
        return pd.DataFrame({"status": []})


def _grid(job: jobs.Job, frame: pd.DataFrame) -> None:
    if frame.empty:
        return
    counts = frame["status"].value_counts()
    told = ", ".join(f"{count} {marks.STATUSES.get(name, ('', name))[1]}" for name, count in counts.items())
    made = charts.cell_grid(frame, theme=ui.theme())
    ui.chart(made, alt_text=f"Cells of job {job.id}: {told}.", key=f"grid_{job.id}")
    present = [name for name in marks.STATUSES if name in counts.index]
    st.caption(" · ".join(f"{marks.STATUSES[name][0]} {marks.STATUSES[name][1]} ({counts[name]})" for name in present))


def _cancel(number: int) -> None:
    _change(lambda store: jobs.cancel(store, number))


def _again(job: jobs.Job) -> None:
    """Queue the plan once more: it goes on from the finished cells."""
    made = _change(lambda store: jobs.submit(store, job.runnable()))
    if made:
        controls.set_query(job=made.id)


def _retry(number: int) -> None:
    """Queue the plan once more, to measure its failed cells again."""
    made = _change(lambda store: jobs.retry(store, number))
    if made:
        controls.set_query(job=made.id)


def _change(change: Callable[[Store], jobs.Job]) -> jobs.Job | None:
    """What a button does to the queue; what goes wrong is said on the page."""
    if settings.read().read_only:
        return None
    try:
        return change(data.store())
    except data.STORE_ERRORS as error:
        st.session_state["queue_error"] = data.error_text(error)
        return None


def _queue(found: list[jobs.Job]) -> None:
    ui.section("All jobs")
    frame = pd.DataFrame(
        {
            "job": [job.id for job in found],
            "status": [job.status for job in found],
            "cells": [f"{job.done} of {job.total}" if job.total else "" for job in found],
            "methods": [", ".join(job.methods) for job in found],
            "queued": [job_view.age_text(job.created) for job in found],
            "plan": [job.plan_hash for job in found],
        }
    )
    if any(job.obstacle for job in found):
        frame["cannot be run here"] = [safe.cut(job.obstacle) for job in found]
    chosen = ui.table(frame, key="queue", on_select="rerun", selection_mode="single-row")
    if chosen.selection.rows:
        number = found[chosen.selection.rows[0]].id
        if controls.query("job") != str(number):
            ui.go("jobs", job=number)


page()
