"""Run: a form that makes a plan, checked as it is filled in; the same plan as command and YAML; submit."""

from __future__ import annotations

from typing import Any

import streamlit as st

from longatlas.errors import LongAtlasError
from longatlas.harness import cells, jobs
from longatlas.harness.estimating import estimate
from longatlas.harness.plan import Plan, PlanError
from longatlas.words import BASELINE
from longatlas_dashboard import controls, data, form, marks, plan_url, plots, safe, settings, takeaway, ui


def page() -> None:
    ui.header("Run", "Choose what to measure. Cells that are finished are kept and not measured again.")
    if settings.read().read_only:
        ui.empty("This dashboard is read-only. Start it without `--read-only` to run something.")
        return
    if "submit_error" in st.session_state:
        st.error(safe.plain(st.session_state.pop("submit_error")), icon=":material/error:")
    if "submitted_job" in st.session_state:
        ui.go("jobs", job=st.session_state.pop("submitted_job"))
    asked, wrong = plan_url.values_of(controls.query)
    made = form.draw({"methods": (BASELINE,), **asked})
    for key, words in wrong.items():
        made.show(PlanError(key, words))
    plan = made.plan()
    if plan is None:
        st.button("Start", disabled=True, type="primary", key="start")
        return
    controls.set_query(**plan_url.query_of(plan))
    _submit(made, plan)
    _same_plan(plan)


def _submit(made: form.Form, plan: Plan) -> None:
    try:
        wanted = cells.expand(plan)
    except LongAtlasError as error:
        key = "corpus" if str(error).startswith("corpus") else "methods"
        made.places[key].error(safe.plain(str(error)), icon=":material/error:")
        st.button("Start", disabled=True, type="primary", key="start")
        return
    done = data.store().finished((cell.key for cell in wanted), timeout=plan.timeout)
    missing = [cell for cell in wanted if cell.key not in done]
    left = len(missing)
    columns = st.columns(5)
    columns[0].metric("Cells", len(wanted))
    columns[1].metric("Finished already", len(wanted) - left)
    columns[2].metric("To measure", left)
    fits = _estimate(plan, missing, columns[3:])
    waiting = [job for job in jobs.jobs(data.store()) if job.status in jobs.ACTIVE]
    if waiting:
        count = len(waiting)
        st.caption(f"{count} job{'s' * (count > 1)} before it in the queue; one runs at a time.")
    elif not left and wanted:
        st.caption("All of it is finished; Start ends at once, and Compare shows it.")
    st.button(
        "Start",
        type="primary",
        icon=":material/play_circle:",
        on_click=_start,
        args=(plan,),
        key="start",
        disabled=not (wanted and fits),
    )


def _estimate(plan: Plan, missing: list[cells.Cell], columns: list[Any]) -> bool:
    """Show what it would take; whether all of it can fit into memory."""
    if not missing:
        return True
    found = estimate(data.store(), plan, missing)
    columns[0].metric("Time, about", marks.duration_text(found.seconds))
    label = "Peak memory, at least" if found.at_least else "Peak memory, about"
    columns[1].metric(label, "not known" if found.peak is None else marks.bytes_text(found.peak))
    basis = f"{found.guessed} of {len(missing)} cells have nothing like them in the store: a rule of thumb stands in."
    if found.guessed:
        st.caption(basis)
    if not found.too_large:
        return True
    size = f"{'at least' if found.at_least else 'up to'} {marks.bytes_text(found.peak or 0)}"
    st.error(
        f"It cannot fit: {safe.texts(found.too_large[:5])} would need {size}, and a worker may take "
        f"{marks.bytes_text(found.limit)}. Leave out the longest T or the method, or raise memory_gib.",
        icon=":material/memory:",
    )
    return False


def _start(plan: Plan) -> None:
    """Queue the plan; the same plan is not queued twice."""
    try:
        if settings.read().read_only:
            raise LongAtlasError("this dashboard is read-only; start it without --read-only to run something")
        st.session_state["submitted_job"] = jobs.submit(data.store(), plan).id
    except data.STORE_ERRORS as error:
        st.session_state["submit_error"] = data.error_text(error)


def _same_plan(plan: Plan) -> None:
    ui.section("The same plan")
    takeaway.of_plan(plan, key="run")
    known = [spec for spec in plan.methods if plots.known(spec)]
    ui.link("compare", "Compare what is measured", icon=":material/stacked_line_chart:", m=",".join(known))


page()
