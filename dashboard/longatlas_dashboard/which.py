"""Home's question: which method for my case? Asked in a few words, answered from measured rows."""

from __future__ import annotations

import shlex
from typing import Any

import pandas as pd
import streamlit as st

from longatlas import identity, measures
from longatlas.harness.choosing import TASK, Answer, Case, choose
from longatlas.harness.plan import Plan
from longatlas.harness.plan_of import plan_of
from longatlas.measures import QUALITY, SPEED
from longatlas.words import DEVICES, PHASES
from longatlas_dashboard import controls, data, marks, plan_url, plots, safe, selection, settings, ui

LENGTHS = tuple(1 << power for power in range(7, 21))
NO_LIMIT = 0
BUDGETS = (NO_LIMIT, *(1 << power for power in range(20, 38)))  # 1 MiB to 128 GiB


def draw() -> None:
    """The form and its answer."""
    ui.section("Which method for my case?", "Answered from what was measured here, with the reasons.")
    found = data.measured()
    with st.container(border=True):
        case, device = _form()
        candidates = _candidates(data.names_with_rows(found))
        setting = _most_measured(found["method"], (SPEED.name,), device)
        if setting is None:
            plan = Plan(methods=tuple(plots.ready_methods()), lengths=(case.T,), phases=(case.phase,), device=device)
            ui.empty(f"No time has been measured on `{device}` here yet.", command=shlex.join(plan.to_command()))
            return
        shaped = selection.rows_under(candidates, measures.shaped(), setting)
        scored_on = _most_measured(found["method"], (QUALITY.name,), device, TASK)
        quality = data.store().rows(keys=[])
        plan = plan_of([spec for spec in candidates if plots.known(spec)], setting, shaped[:0])
        if scored_on is not None:
            quality = selection.rows_under(candidates, (QUALITY.name,), scored_on, TASK)
            of_quality = {name: scored_on["case"][name] for name in ("preset", "corpus") if name in scored_on["case"]}
            plan = plan.with_values(of_quality)
        answer = choose(case, candidates, shaped, quality, plan)
        st.caption(safe.plain(data.setting_text(setting)))
        _answer(case, answer)


def _candidates(measured: list[str]) -> list[str]:
    """What was measured, and the ready methods of which nothing was, with any options."""
    names = {spec.partition(":")[0] for spec in measured}
    return [*measured, *(name for name in plots.ready_methods() if name not in names)]


def _form() -> tuple[Case, str]:
    left, middle, right = st.columns(3)
    with left:
        T = controls.slid("T, tokens", LENGTHS, key="T", default=4096, words=marks.length_text)
        phase = controls.segments("What you wait for", PHASES, key="phase", default="prefill")
    with middle:
        memory = controls.slid("Memory, at most", BUDGETS, key="mem", default=NO_LIMIT, words=_budget_text)
        device = controls.segments("Device", DEVICES, key="device", default="cpu")
    with right:
        may_train = controls.segments(
            "May you train?", (True, False), key="train", default=True, words=_TRAIN.__getitem__, name=_yes
        )
        exact = controls.segments(
            "Result", (False, True), key="exact", default=False, words=_EXACT.__getitem__, name=_yes
        )
    return Case(T, phase, memory or None, may_train, exact), device


_TRAIN = {True: "yes", False: "no, the model is trained"}
_EXACT = {False: "approximate is fine", True: "exactly vanilla's"}


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _budget_text(budget: int) -> str:
    return marks.bytes_text(budget) if budget else "no limit"


def _most_measured(methods: Any, measures: tuple[str, ...], device: str, phase: str = "") -> Any:
    """The setting of this machine and the device that has the most cells, of whole decoders; None without one."""
    found = data.ask("settings", tuple(methods), measures, phase)
    here = (
        (found["machine"] == identity.machine_name(device))
        & (found["device"] == device)
        & found["level"].isin(["", "decoder"])
    )
    return None if found[here].empty else found[here].sort_values("cells").iloc[-1]


def _answer(case: Case, answer: Answer) -> None:
    fitting = answer.fitting
    if fitting.empty and answer.unmeasured:
        words = f"None that may fit has been measured at T = {marks.length_text(case.T)} here."
        st.info(words, icon=":material/straighten:")
    elif fitting.empty:
        st.warning("Nothing that was measured fits; what was left out, and why, stands below.", icon=":material/block:")
    for row in answer.best(3).itertuples():
        told = [marks.value_text(row.ms, "ms"), answer.reasons[row.method]]
        with st.container(horizontal=True, vertical_alignment="center"):
            ui.link("method", f"**{safe.plain(row.method)}**", id=str(row.method).partition(":")[0].partition("+")[0])
            st.markdown(safe.plain(": ".join(part for part in told if part)))
    if fitting["quality_T"].notna().any():
        upto = marks.length_text(int(fitting["quality_T"].max()))
        st.caption(f"Quality is bits per byte up to T = {upto}; memory counts weights and inputs.")
    if len(fitting):
        with st.container(horizontal=True):
            chosen = ",".join(fitting["method"].head(plots.AT_MOST))
            ui.link("trade_off", "See the trade-off", icon=":material/scatter_plot:", m=chosen)
            ui.link("compare", "Compare them", icon=":material/stacked_line_chart:", m=chosen)
        with st.expander(f"All {len(fitting)} that fit"):
            ui.table(_table(fitting, answer.reasons))
            if fitting["between"].any():
                st.caption("between: on the log-log line between two measured lengths.")
    if answer.excluded:
        with st.expander(f"Left out: {len(answer.excluded)}"):
            ui.table(pd.DataFrame(answer.excluded.items(), columns=["method", "why"]))
    if answer.plan is not None:
        missing = safe.texts(answer.unmeasured)
        st.markdown(f"Not measured at T = {marks.length_text(case.T)} yet: {missing}. One command does:")
        st.code(shlex.join(answer.plan.to_command()), language=None, wrap_lines=True)
        if not settings.read().read_only:
            ui.link("run", "Or run it from here", icon=":material/play_circle:", **plan_url.query_of(answer.plan))


def _table(fitting: pd.DataFrame, reasons: dict[str, str]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "method": fitting["method"],
            "time": [marks.value_text(ms, "ms") for ms in fitting["ms"]],
            "memory": [marks.value_text(size, "bytes") for size in fitting["bytes"]],
            "bits per byte": [f"{bits:.3f}" if pd.notna(bits) else "" for bits in fitting["quality"]],
            "up to T": [marks.length_text(int(T)) if pd.notna(T) else "" for T in fitting["quality_T"]],
            "measured": ["between" if between else "at T" for between in fitting["between"]],
            "why": [reasons[name] for name in fitting["method"]],
        }
    )
