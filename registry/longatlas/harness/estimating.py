"""What a plan would take, from what was measured before: seconds and peak memory; nothing is run for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import psutil

from longatlas.harness.cells import Cell, machine_name
from longatlas.harness.plan import Plan
from longatlas.store import Store, queries

# Seconds of a cell that nothing like it was measured before: a worker's start, its check, and what is sampled.
START = {"speed": 2.0, "memory": 1.0, "quality": 5.0}
TRAINING = {"smoke": 5.0, "demo": 20.0, "quick": 90.0, "paper": 86_400.0}
USABLE = 0.8  # of the machine's memory, as workers are allowed
SHARED = ("method", "phase", "level", "impl", "device", "dtype")


@dataclass(frozen=True)
class Estimate:
    """seconds    of all missing cells together
    guessed    how many of them have nothing like them in the store: a rule of thumb stands for these
    peak       bytes of the largest expected peak, None where nothing is known of any; `peak_of` is its cell
    limit      bytes that a worker may take
    too_large  labels of cells whose expected peak is above the limit
    """

    seconds: float
    guessed: int
    peak: float | None
    peak_of: str
    limit: float
    too_large: tuple[str, ...]


def estimate(store: Store, plan: Plan, missing: Sequence[Cell]) -> Estimate:
    """Estimate what is missing of a plan: by the log-log line in T through cells of the same method, phase and case."""
    past = queries.past(store, plan.methods) if missing else pd.DataFrame()
    limit = plan.memory_gib * 2**30 or USABLE * _memory(plan.device)
    seconds, guessed = 0.0, 0
    peaks: dict[str, float] = {}
    for cell in missing:
        like = _like(past, cell)
        took = _at(like, "seconds", cell.T)
        guessed += took is None
        seconds += min(plan.timeout, took if took is not None else _guess(plan, cell))
        peak = _at(_peaks_like(past, cell), "peak", cell.T) if cell.T else None
        if peak is not None:
            peaks[cell.label] = peak
    largest = max(peaks, key=lambda label: peaks[label], default="")
    too_large = tuple(label for label, peak in peaks.items() if peak > limit)
    return Estimate(seconds, guessed, peaks.get(largest), largest, limit, too_large)


def _like(past: pd.DataFrame, cell: Cell) -> pd.DataFrame:
    """This machine's finished cells that differ from this one by T alone."""
    if past.empty:
        return past
    names = (*SHARED, "measure", "threads")
    found = past[np.logical_and.reduce([past[name] == getattr(cell, name) for name in names])]
    found = found[found["machine"] == machine_name()]
    return found[[case == cell.case for case in found["case"]]] if len(found) else found


def _peaks_like(past: pd.DataFrame, cell: Cell) -> pd.DataFrame:
    """Measured peaks of the same case on any machine; a timing has the same peak as its memory cell."""
    if past.empty:
        return past
    found = past[np.logical_and.reduce([past[name] == getattr(cell, name) for name in SHARED])]
    return found[[case == cell.case for case in found["case"]]] if len(found) else found


def _at(found: pd.DataFrame, column: str, T: int) -> float | None:
    """A column at T on the log-log line, drawn on beyond the ends with the slope there; None without a point."""
    if found.empty:
        return None
    points = found[found[column] > 0].drop_duplicates("T", keep="last").sort_values("T")
    lengths: Any = points["T"].to_numpy(float)
    values: Any = points[column].to_numpy(float)
    if not len(lengths):
        return None
    if not T or len(lengths) == 1 or lengths[0] <= 0:
        return float(values[-1])
    x, y = np.log(lengths), np.log(values)
    place = int(np.clip(np.searchsorted(x, np.log(T)) - 1, 0, len(x) - 2))
    slope = (y[place + 1] - y[place]) / (x[place + 1] - x[place])
    return float(np.exp(y[place] + slope * (np.log(T) - x[place])))


def _memory(device: str) -> float:
    """Bytes of memory that a device has; of a GPU that is not here, no limit is known."""
    if device == "cpu":
        return float(psutil.virtual_memory().total)
    import torch

    return float(torch.cuda.get_device_properties(0).total_memory) if torch.cuda.is_available() else float("inf")


def _guess(plan: Plan, cell: Cell) -> float:
    of_its_own = {"speed": plan.budget, "memory": 0.0, "quality": TRAINING[plan.preset]}
    return START[cell.measure] + of_its_own[cell.measure]
