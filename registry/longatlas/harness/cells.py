"""Cells: a plan taken apart into single measurements, each with a key made of everything that matters to it."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from longatlas.cards import Task
from longatlas.catalog import load_catalog
from longatlas.columns import of_tables
from longatlas.combination import Combination, parse_spec
from longatlas.errors import LongAtlasError
from longatlas.harness.plan import Plan
from longatlas.identity import Code, counted, facts
from longatlas.measures import MEASURES, Measure, Wanted
from longatlas.tasks.corpus import corpus_digest

if TYPE_CHECKING:
    from longatlas.store.record import Record


@dataclass(frozen=True)
class Cell:
    """One measurement to do.

    method   canonical spec; `options` are all its options with their values
    measure  speed, memory or quality
    phase    train, prefill or decode; for quality the task's name
    level    operation, layer or decoder; "" for quality
    policy   wall, gpu_cold or gpu_hot for speed, else ""
    T        tokens; 0 for quality, whose rows carry their own
    case     the shape (batch, heads, head_size, of a decoder its layers), or the task's preset and corpus
    source   digest of the code that computes it (longatlas.identity)
    who      the machine and versions that it depends on: those here, until the process that measured has told its own
    """

    method: str
    options: dict[str, Any]
    impl: str
    measure: str
    phase: str
    level: str
    policy: str
    T: int
    case: dict[str, Any]
    dtype: str
    device: str
    budget: float
    threads: int
    memory_gib: float
    seed: int
    source: str
    who: Mapping[str, str]

    @property
    def key(self) -> str:
        """Content hash of all of the cell."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    @property
    def label(self) -> str:
        of = f" {self.level}" if self.level not in ("", "decoder") else ""
        told = f"{self.method} {self.phase}{of}" + (f" T={self.T}" if self.T else "")
        told += f" ranks={self.ranks}" if self.ranks > 1 else ""
        return f"{told} {self.unusual_impl}".rstrip()

    @property
    def ranks(self) -> int:
        """How many processes compute it together."""
        return int(self.case.get("ranks", 1))

    @property
    def unusual_impl(self) -> str:
        """The impl where it is another than `auto` stands for, else nothing."""
        auto = parse_spec(self.method).resolve_impl("auto", self.device, self.dtype, self.case.get("head_size"))
        return "" if self.impl == auto else self.impl

    @property
    def group(self) -> tuple[Any, ...]:
        """Cells that differ by the method alone are measured in turns."""
        return self.measure, self.T, self.level, self.phase, self.ranks

    @property
    def series(self) -> tuple[str, ...]:
        """Cells that differ by T alone: after an `oom` or `timeout` longer ones are skipped."""
        return self.method, self.impl, self.measure, self.phase, self.level, str(self.ranks)

    def record(
        self, rows: Sequence[Mapping[str, Any]], seconds: float, told: Mapping[str, str] | None = None
    ) -> Record:
        """What the store takes of the cell once it is finished; a timing's budget stands among its facts (`versions`).

        told  who measured (longatlas.identity.facts), by its own words; None = this process
        """
        from longatlas.store.record import Record

        who = told or facts(self.device)
        cell = replace(self, who=counted(who, self.device))
        told_here = {
            "cell": cell.key,
            "machine": who["machine"],
            "versions": {**who, **({"budget": self.budget} if self.budget else {})},
            "created": time.time(),
            "seconds": seconds,
        }
        columns = of_tables("settings", "series", "cells")
        return Record({name: told_here.get(name, getattr(cell, name, None)) for name in columns}, self.T, rows)

    @property
    def is_current(self) -> bool:
        """Whether the code that computes it is still what it was when the cell was made."""
        task = _task(MEASURES[self.measure], self.phase)
        preset = str(self.case.get("preset", ""))
        try:
            return Code().of(parse_spec(self.method), self.measure, task, preset, self.impl) == self.source
        except LongAtlasError:  # it cannot be read any more
            return False


def expand(plan: Plan) -> list[Cell]:
    """The cells of a plan. Short ones come first and methods take turns, so that drift hurts all alike."""
    code = Code()
    return [cell for name, measure in MEASURES.items() if name in plan.measure for cell in _cells(plan, measure, code)]


def _cells(plan: Plan, measure: Measure, code: Code) -> Iterator[Cell]:
    """Each cell that a plan has of a measure, for each method in each of its impls."""
    methods = [(combination, impl) for combination in plan.combinations for impl in plan.impls_of(combination)]

    @cache
    def source_of(place: int, phase: str) -> str:
        combination, impl = methods[place]
        return code.of(combination, measure.name, _task(measure, phase), plan.preset, impl)

    for wanted in measure.cells(plan):
        case = {**wanted.case, **_text(plan, _task(measure, wanted.phase))}
        for place, (combination, impl) in enumerate(methods):
            source = source_of(place, "" if measure.shaped else wanted.phase)
            yield _cell(plan, combination, impl, measure, wanted._replace(case=case), source)


def _task(measure: Measure, phase: str) -> Task | None:
    return None if measure.shaped else load_catalog().task(phase)


def _text(plan: Plan, task: Task | None) -> dict[str, Any]:
    """The text that a task reads."""
    if task is None or not task.corpus:
        return {}
    return {"corpus": plan.corpus, "corpus_digest": corpus_digest(plan.corpus)}


def _cell(plan: Plan, combination: Combination, impl: str, measure: Measure, wanted: Wanted, source: str) -> Cell:
    return Cell(
        method=combination.spec,
        options=combination.options,
        impl=impl,
        measure=measure.name,
        phase=wanted.phase,
        level=wanted.level,
        policy=resolve_policy(plan.policy, "cpu" if "ranks" in wanted.case else plan.device) if measure.timed else "",
        T=wanted.T,
        case=wanted.case,
        dtype=plan.dtype,
        device=plan.device,
        budget=plan.budget if measure.timed else 0.0,
        threads=plan.threads or os.cpu_count() or 1,
        memory_gib=plan.memory_gib,
        seed=plan.seed,
        source=source,
        who=counted(facts(plan.device), plan.device),
    )


def resolve_policy(policy: str, device: str) -> str:
    """The policy that `auto` stands for on a device."""
    if policy != "auto":
        return policy
    return "gpu_cold" if device == "cuda" else "wall"
