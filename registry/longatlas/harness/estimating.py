"""What cells take, seconds and peak memory: one Predictor for the Run page, a run's time left and the preset paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import psutil

from longatlas.combination import Combination, operation_flops, parse_spec, state_numbers
from longatlas.flops import Call, causal_softmax
from longatlas.harness.cells import Cell
from longatlas.harness.plan import Plan
from longatlas.measures import CALLS, MEASURES
from longatlas.store import Store, queries
from longatlas.words import BASELINE, DTYPES

# Operations a second of small products in eager mode: a core reaches some ten times as many in large products, a GPU
# too, and a guess that is too long is better than one that is too short.
RATES = {"cpu": 1e10, "cuda": 1e13}
FORWARD_AND_BACKWARD = 3  # products for each product of forward
# When longatlas.measure.speed stops before its budget is spent.
KNOWN, FEWEST, MOST = 0.02, 10, 1000  # width of the interval as a share of the median; samples
LEAST_SAMPLES = 5

USABLE = 0.8  # of the machine's memory, as workers are allowed
VOCABULARY = 256  # V of the measured decoder
MOST_LAYERS = 8  # whose formulas are asked; deeper ones are taken to be like them
SHARED = ("method", "phase", "level", "impl", "device", "dtype")


class Peak(NamedTuple):
    """Bytes that a cell is expected to need at its peak; at_least: no peak like it was measured, and it may be more."""

    bytes: float
    at_least: bool


@dataclass(frozen=True)
class Estimate:
    """seconds    of all missing cells together
    guessed    how many of them have nothing like them in the store: a rule of thumb stands for these
    peak       bytes of the largest expected peak, None where nothing is known of any; `peak_of` is its cell
    at_least   whether that peak is a lower bound
    limit      bytes that a worker may take
    too_large  labels of cells whose expected peak is above the limit
    """

    seconds: float
    guessed: int
    peak: float | None
    peak_of: str
    at_least: bool
    limit: float
    too_large: tuple[str, ...]


def estimate(store: Store, plan: Plan, missing: Sequence[Cell]) -> Estimate:
    """Estimate what is missing of a plan; nothing is run. See Predictor."""
    predictor = Predictor.of(store, plan, missing)
    limit = plan.memory_gib * 2**30 or USABLE * _memory(plan.device)
    every = {cell.label: predictor.peak(cell) for cell in missing}
    peaks = {label: peak for label, peak in every.items() if peak is not None}
    largest = max(peaks, key=lambda label: peaks[label].bytes, default="")
    too_large = tuple(label for label, peak in peaks.items() if peak.bytes > limit)
    peak = peaks.get(largest, Peak(0.0, at_least=False))
    guessed = sum(not predictor.is_known(cell) for cell in missing)
    seconds = sum(map(predictor.seconds, missing))
    return Estimate(seconds, guessed, peak.bytes or None, largest, peak.at_least, limit, too_large)


class Predictor:
    """Expects what cells of a plan take, and corrects itself while they are measured.

    Before a cell of its kind has been finished, a cell takes what cells that differ from it by T alone took: by the
    log-log line through them. Where there are none, the measure's rule of thumb stands in, from the method's formula of
    operations. What cells of a run took beside what was expected of them then scales the others of their measure,
    phase and basis.

    past  finished cells (longatlas.store.queries.past)
    """

    def __init__(self, plan: Plan, past: pd.DataFrame) -> None:
        self._plan, self._past = plan, past
        self._tried: dict[str, float] = {}
        self._before: dict[str, tuple[float, bool]] = {}
        self._paces: dict[tuple[str, str, bool], tuple[float, float]] = {}

    @classmethod
    def of(cls, store: Store, plan: Plan, cells: Sequence[Cell]) -> Predictor:
        """One that knows what a store has of the methods of a plan; the store is only asked where there are cells."""
        return cls(plan, queries.past(store, plan.methods) if cells else pd.DataFrame())

    def is_known(self, cell: Cell) -> bool:
        """Whether cells like it were measured before: else a rule of thumb stands for it."""
        return self._expected(cell)[1]

    def seconds(self, cell: Cell) -> float:
        """What a cell is expected to take, at most the plan's timeout."""
        return min(self._plan.timeout, self.unlimited(cell))

    def unlimited(self, cell: Cell) -> float:
        """What a cell would take without a timeout."""
        if cell.key in self._tried:
            return self._tried[cell.key]
        expected, known = self._expected(cell)
        took, should = self._paces.get((cell.measure, cell.phase, known), (1.0, 1.0))
        return expected * took / should

    def tell(self, cell: Cell, seconds: float) -> None:
        """A trial of the cell's own first steps said that it takes `seconds`: nothing else is as good."""
        self._tried[cell.key] = seconds

    def learn(self, cell: Cell, seconds: float) -> None:
        """A cell of this run has been measured in `seconds`."""
        expected, known = self._expected(cell)
        kind = (cell.measure, cell.phase, known)
        took, should = self._paces.get(kind, (0.0, 0.0))
        self._paces[kind] = (took + seconds, should + expected)

    def peak(self, cell: Cell) -> Peak | None:
        """The measured line where there is one, else the most that is needed at least; None where nothing is known.

        Backward needs what a prefill needs and more, and decoding begins with a prefill.
        """
        if not cell.T:
            return None
        measured = _at(_peaks_like(self._past, cell, cell.phase), "peak", cell.T)
        if measured is not None:
            return Peak(measured, at_least=False)
        if cell.phase == "train" and _is_around_a_trained_decoder(parse_spec(cell.method)):
            return None  # it is not trained
        least = max(_at(_peaks_like(self._past, cell, "prefill"), "peak", cell.T) or 0.0, least_peak(cell))
        return Peak(least, at_least=True) if least else None

    def _expected(self, cell: Cell) -> tuple[float, bool]:
        """Seconds before anything of this run is known, and whether cells like it were measured."""
        if cell.key not in self._before:
            took = _took(self._past, self._plan, cell)
            seconds = _guess(self._plan, cell) if took is None else took
            self._before[cell.key] = (min(self._plan.timeout, seconds), took is not None)
        return self._before[cell.key]


def _is_around_a_trained_decoder(combination: Combination) -> bool:
    return any("context" in part.method.fills and part.method.training == "retrofit" for part in combination.parts)


# From the store


def _took(past: pd.DataFrame, plan: Plan, cell: Cell) -> float | None:
    """Seconds by the cells that differ by T alone; the samples of a timing as this plan's budget would have them."""
    like = _like(past, cell)
    if not MEASURES[cell.measure].timed or like.empty:
        return _at(like, "seconds", cell.T)
    took = _at(like.assign(seconds=_with_budget(like, plan.budget)), "seconds", cell.T)
    median = _at(like, "median", cell.T)
    return took if took is None or median is None else max(took, CALLS * median)


def _with_budget(past: pd.DataFrame, budget: float) -> Any:
    """Seconds that past timings would take with another budget: [n].

    One whose interval was narrow enough ends as it did; any other spends the budget, or five samples where they are
    longer.
    """
    numbers = past[["seconds", "median", "low", "high", "n"]].astype(float)
    seconds, median, low, high, n = numbers.fillna({"median": 0.0, "n": 0.0}).to_numpy().T
    ended = ((high - low < KNOWN * median) & (n >= FEWEST)) | (n >= MOST)
    sampling = np.where(ended, np.minimum(n * median, budget), budget)
    return np.maximum(seconds - n * median, 0.0) + np.maximum(sampling, LEAST_SAMPLES * median)


def _like(past: pd.DataFrame, cell: Cell) -> pd.DataFrame:
    """This machine's finished cells that differ from this one by T alone."""
    if past.empty:
        return past
    names = (*SHARED, "measure", "threads")
    found = past[np.logical_and.reduce([past[name] == getattr(cell, name) for name in names])]
    found = found[found["machine"] == cell.who["machine"]]
    return found[[case == cell.case for case in found["case"]]] if len(found) else found


def _peaks_like(past: pd.DataFrame, cell: Cell, phase: str) -> pd.DataFrame:
    """Measured peaks of the same case on any machine; a timing has the same peak as its memory cell."""
    if past.empty:
        return past
    wanted = {name: getattr(cell, name) for name in SHARED} | {"phase": phase}
    found = past[np.logical_and.reduce([past[name] == value for name, value in wanted.items()])]
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


# By formula


def least_peak(cell: Cell) -> float:
    """Bytes that a cell with a T must hold at once, whatever its method does beside; 0 where nothing is sure.

    prefill  what comes out for every token (of a decoder with what its head reads), and the state
    train    what comes out, and of each block what its two norms read
    decode   as prefill, which it begins with

    A context answers its last token alone. What a method of the slot `model` keeps, or one of the slot `objective`
    makes, is not known.
    """
    combination = parse_spec(cell.method)
    width = int(cell.case["heads"]) * int(cell.case["head_size"])
    layers = int(cell.case.get("layers", 1))
    per_token = width + VOCABULARY if cell.level == "decoder" else width
    unknown = {slot for part in combination.parts if part.method.name != BASELINE for slot in part.method.fills}
    if "context" in unknown or (cell.phase == "train" and "objective" in unknown):
        per_token = 0
    numbers = float(cell.T * per_token)
    if cell.level != "operation" and "model" not in unknown:  # q, k and v are given, and may be the state
        if cell.phase == "train":
            numbers += 0 if not per_token else 2 * layers * cell.T * width
        else:
            numbers += layers * min(_of_layers(state_numbers, combination, _call(cell, cell.T, 0)), default=0)
    return int(cell.case["batch"]) * DTYPES[cell.dtype] * numbers


def _guess(plan: Plan, cell: Cell) -> float:
    """The measure's rule of thumb, from what its calls take by formula."""
    measure, rate = MEASURES[cell.measure], RATES[cell.device]
    call = _operations(cell, cell.phase) / rate if measure.shaped else 0.0
    before = _operations(cell, "prefill") / rate if cell.phase == "decode" else 0.0
    return measure.guess(plan, before, call)


def _operations(cell: Cell, phase: str) -> float:
    """Of one call, about: the method's formula, or vanilla's where it has none and claims T^2, and what is around."""
    combination = parse_spec(cell.method)
    call = _call(cell, 1, cell.T) if phase == "decode" else _call(cell, cell.T, 0)
    found = _of_layers(operation_flops, combination, call)
    if not found and max(part.method.cost.time_exponent for part in combination.parts) >= 2:
        found = [float(causal_softmax(call))]
    width, layers = call.heads * call.head_size, int(cell.case.get("layers", 1))
    around = {"operation": 0, "layer": 12 * width**2}.get(cell.level, 12 * width**2 * layers + VOCABULARY * width)
    operation = layers * sum(found) / len(found) if found else 0.0
    forward = int(cell.case["batch"]) * (operation + 2.0 * call.tokens * around)
    return forward * FORWARD_AND_BACKWARD if phase == "train" else forward


def _call(cell: Cell, tokens: int, past: int) -> Call:
    heads, size = int(cell.case["heads"]), int(cell.case["head_size"])
    return Call(tokens, past, heads, size, 0, int(cell.case.get("layers", 1)), cell.case.get("kv_heads"))


def _of_layers(
    formula: Callable[[Combination, Call], float | None], combination: Combination, call: Call
) -> list[float]:
    """A formula for each of the first layers; empty where a method has none, or has one that fails."""
    layers = range(min(call.n_layers, MOST_LAYERS))
    calls = [replace(call, layer=layer) for layer in layers]
    try:
        found = [formula(combination, each) for each in calls]
    except Exception:  # a plugin's formula must not cost the estimate of the others
        return []
    return [float(value) for value in found if value is not None]
