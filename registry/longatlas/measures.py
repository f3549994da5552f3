"""Measures: what is measured of a method. Each is described here, and measured by its function in a worker.

A new measure takes a Measure in MEASURES, its function and a test. Nothing heavy is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

from longatlas.words import PHASES, PRESETS

if TYPE_CHECKING:
    from longatlas.harness.plan import Plan

LESS, MORE = -1, 1


class Wanted(NamedTuple):
    """A cell that a plan has of a measure, before a method, its code and the machine are bound to it.

    phase  train, prefill or decode, or the name of a task
    case   the shape (batch, heads, head_size, of a decoder its layers; `ranks` where they are several), or a task's
           preset
    T      tokens; 0 where the rows carry their own
    """

    phase: str
    case: dict[str, Any]
    level: str = ""
    T: int = 0


class Metric(NamedTuple):
    """A measured value.

    name     in rows; `*` stands for any text
    better   LESS or MORE, or 0 where it is not known
    compare  what `compare` does with it: "always", "here" (a ratio to vanilla on another machine says nothing: it is of
             one call, of the whole process or of rounding), or "never" (it follows from others that are compared)
    """

    name: str
    better: int = 0
    compare: str = "always"


@dataclass(frozen=True)
class View:
    """One metric against T: a chart of the dashboard and a table of a run's summary.

    key    names it in the dashboard's addresses
    title  of the chart
    table  of the table, whose values are divided by `size`
    """

    key: str
    title: str
    phase: str
    metric: str
    unit: str
    table: str
    size: float = 1.0
    measure: str = ""


@dataclass(frozen=True)
class Measure:
    """What is measured, where it is shown, and how it is asked for.

    name      in plans, rows and addresses
    kind      a word for it beside the others of a phase; "" where the phase says it
    cells     what a plan has of it, short ones first
    needs     keys of a plan that must not be empty
    function  "module:name" in the worker. Called as name(cell, cache), `cell` a mapping of longatlas.harness.cells.Cell
              and `cache` the folder of trained hosts, it returns rows (longatlas.measure.rows)
    guess     (plan, before, call) -> seconds of a cell that nothing is known of; `before` and `call` are the seconds,
              by formula, of what comes first and of one call
    metrics   of its rows
    formulas  of a method's card, which become rows
    shown     where they are shown
    shaped    its cells have a level, a T and the plan's shape; else they are a task's, whose rows have their own T
    timed     cells of a group are sampled in turns, under a policy and within the plan's budget; `function` is a class
              then, whose objects take the samples (longatlas.measure.timed.TimedCell)
    mean      several seeds are told by their mean, else by their median
    """

    name: str
    kind: str
    cells: Callable[[Plan], Iterator[Wanted]]
    needs: tuple[str, ...]
    function: str
    guess: Callable[[Plan, float, float], float]
    metrics: tuple[Metric, ...]
    formulas: tuple[str, ...] = ()
    shown: tuple[View, ...] = ()
    shaped: bool = True
    timed: bool = False
    mean: bool = False

    @property
    def views(self) -> tuple[View, ...]:
        """Where it is shown, by its own name."""
        return tuple(replace(view, measure=self.name) for view in self.shown)


def shapes(plan: Plan) -> Iterator[Wanted]:
    """Each length at each level and phase of a plan, for each number of ranks."""
    shape = {"batch": plan.batch, "heads": plan.heads, "head_size": plan.head_size}
    shape |= {"kv_heads": plan.kv_heads} if plan.kv_heads not in (0, plan.heads) else {}
    for length in sorted(plan.lengths):
        for level, phase, ranks in product(plan.levels, plan.phases, plan.ranks):
            case = {**shape, "layers": plan.layers} if level == "decoder" else shape
            yield Wanted(phase, {**case, "ranks": ranks} if ranks > 1 else case, level, length)


def tasks(plan: Plan) -> Iterator[Wanted]:
    """Each task of a plan at its preset."""
    for task in plan.tasks:
        yield Wanted(task, {"preset": plan.preset})


SHAPED_KEYS = ("phases", "levels", "lengths", "ranks")
TIMES = {"train": "Train time", "prefill": "Prefill time", "decode": "Decode time, one token"}
CALLS = 7  # of a timing, at least: the first, one to warm up and five samples
TRAINING = dict(zip(PRESETS, (5.0, 20.0, 90.0, 86_400.0), strict=True))  # seconds

SPEED = Measure(
    name="speed",
    kind="time",
    cells=shapes,
    needs=SHAPED_KEYS,
    function="longatlas.measure.timed:TimedCell",
    guess=lambda plan, before, call: 2.0 + before + max(plan.budget, CALLS * call),
    metrics=(
        *(Metric(f"{phase}_ms", LESS) for phase in PHASES),
        Metric("tokens_per_s", MORE),
        Metric("compile_ms", LESS, "here"),
        Metric("rms_error", LESS, "here"),
        Metric("flops", compare="here"),
        Metric("moved_bytes", LESS, "here"),
        Metric("compute_share", MORE, "never"),
        Metric("bandwidth_share", MORE, "never"),
    ),
    shown=tuple(View(phase, TIMES[phase], phase, f"{phase}_ms", "ms", f"{phase}: ms") for phase in PHASES),
    formulas=("flops",),
    timed=True,
)
MEMORY = Measure(
    name="memory",
    kind="memory",
    cells=shapes,
    needs=SHAPED_KEYS,
    function="longatlas.measure.memory:memory_of",
    guess=lambda plan, before, call: 1.0 + before + 3 * call,  # one to warm up, and a slow one
    metrics=(Metric("resident_peak_bytes", LESS, "here"), Metric("*_bytes", LESS), Metric("collective_elements", LESS)),
    shown=(
        View("peak_train", "Peak memory, train", "train", "peak_bytes", "bytes", "train: peak MiB", 2**20),
        View("peak_prefill", "Peak memory, prefill", "prefill", "peak_bytes", "bytes", "prefill: peak MiB", 2**20),
        View("state", "State after a prefill", "prefill", "state_bytes", "bytes", "state: KiB after T tokens", 2**10),
    ),
)
QUALITY = Measure(
    name="quality",
    kind="",
    cells=tasks,
    needs=("tasks",),
    function="longatlas.tasks.session:quality_of",
    guess=lambda plan, before, call: 5.0 + TRAINING[plan.preset],
    metrics=(
        Metric("bits_per_byte*", LESS),
        Metric("perplexity*", LESS),
        Metric("accuracy*", MORE),
        Metric("steps_to_95", LESS),
        Metric("*_seconds", LESS),
        Metric("diverged", LESS),
        Metric("*_share", MORE),
    ),
    shaped=False,
    mean=True,
)
MEASURES = {measure.name: measure for measure in (SPEED, MEMORY, QUALITY)}


def views() -> tuple[View, ...]:
    """Every view of every measure."""
    return tuple(view for measure in MEASURES.values() for view in measure.views)


def shaped() -> tuple[str, ...]:
    """The measures of one shape and T: what they show stands side by side."""
    return tuple(measure.name for measure in MEASURES.values() if measure.shaped)


def metric_of(name: str) -> Metric:
    """What is known of a metric; one that no measure names has no direction."""
    every = (metric for measure in MEASURES.values() for metric in measure.metrics)
    return next((metric for metric in every if fnmatch(name, metric.name)), Metric(name))


def direction(name: str) -> int:
    """LESS or MORE, or 0 where it is not known which value of a metric is better."""
    return metric_of(name).better
