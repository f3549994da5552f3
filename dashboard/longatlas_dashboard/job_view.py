"""A job as the pages show it: badge, words, the grid of its cells, the end of its log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import streamlit as st

from longatlas.harness import cells, jobs
from longatlas.measures import MEASURES
from longatlas.store import Store
from longatlas_dashboard import marks

_BADGES = {
    jobs.QUEUED: ("gray", "schedule"),
    jobs.RUNNING: ("blue", "play_arrow"),
    jobs.DONE: ("green", "check"),
    jobs.FAILED: ("red", "error"),
    jobs.CANCELLED: ("orange", "block"),
}


def badge(job: jobs.Job) -> None:
    colour, icon = _BADGES.get(job.status, ("gray", "help"))
    st.badge(job.status, color=colour, icon=f":material/{icon}:")


def words(job: jobs.Job) -> str:
    """One line: how far, of what, when; of a plan that cannot be run here, which one it is and why."""
    count = f"{job.done} of {job.total} cells" if job.total else "not started"
    told = f"{count} · {methods_text(job.methods)} · {age_text(job.created)}"
    return f"{told} · plan {job.plan_hash} cannot be run here: {job.obstacle}" if job.obstacle else told


def methods_text(methods: Sequence[str], most: int = 2) -> str:
    names = ", ".join(methods[:most])
    more = len(methods) - most
    return f"{names} and {more} more" if more > 0 else names


def age_text(moment: float) -> str:
    """How long ago, in words."""
    seconds = max(0.0, time.time() - moment)
    return "just now" if seconds < 60 else f"{marks.duration_text(seconds)} ago"


def left_text(job: jobs.Job) -> str:
    """Time left at the pace so far."""
    seconds = job.eta_seconds
    return "" if seconds is None else f"about {marks.duration_text(seconds)} left"


def grid(store: Store, job: jobs.Job) -> pd.DataFrame:
    """One line per cell of the plan for charts.cell_grid. Raises LongAtlasError for a plan that cannot be run."""
    wanted = cells.expand(job.runnable())
    done = store.finished(cell.key for cell in wanted)
    # Time and memory of a method have the same label; cells are measured in the order of the plan.
    waiting = [cell for cell in wanted if cell.key not in done]
    current = job.current if job.status == jobs.RUNNING else ""
    running = next((cell.key for cell in waiting if current and cell.label == current), "")
    return pd.DataFrame([_line(cell, done.get(cell.key), running) for cell in wanted])


def _line(cell: cells.Cell, status: str | None, running: str) -> dict[str, str]:
    shown = status or ("running" if cell.key == running else "waiting")
    level = "" if cell.level in ("", "decoder") else f" {cell.level}"
    length = f" {marks.length_text(cell.T)}" if cell.T else ""
    column = f"{cell.phase}{level}{length} {MEASURES[cell.measure].kind}".strip()
    words = marks.STATUSES.get(shown, ("", shown))[1]
    return {
        "method": cell.method,
        "column": column,
        "status": shown,
        "label": f"{cell.method} {column}: {words}",
    }


def log_tail(path: Path, lines: int = 15, most: int = 65_536) -> str:
    """The end of a log; "" where there is none."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - most))
            return "\n".join(stream.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
