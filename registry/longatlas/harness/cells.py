"""Cells: a plan taken apart into single measurements, each with a key made of everything that matters to it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any

from longatlas.combination import Combination, parse_spec
from longatlas.harness.plan import Plan
from longatlas.harness.sources import source_digest
from longatlas.tasks.corpus import corpus_digest

# What a measured number depends on inside longatlas: a change there measures again.
ENGINE = ("decoder", "measure", "ops", "tasks", "combination.py", "slots.py")


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
    environment: str

    @property
    def key(self) -> str:
        """Content hash of all of the cell."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    @property
    def label(self) -> str:
        of = f" {self.level}" if self.level not in ("", "decoder") else ""
        told = f"{self.method} {self.phase}{of}" + (f" T={self.T}" if self.T else "")
        return f"{told} {self.unusual_impl}".rstrip()

    @property
    def unusual_impl(self) -> str:
        """The impl where it is another than `auto` stands for, else nothing."""
        auto = parse_spec(self.method).resolve_impl("auto", self.device, self.dtype, self.case.get("head_size"))
        return "" if self.impl == auto else self.impl

    @property
    def group(self) -> tuple[Any, ...]:
        """Cells that differ by the method alone are measured in turns."""
        return self.measure, self.T, self.level, self.phase

    @property
    def series(self) -> tuple[str, ...]:
        """Cells that differ by T alone: after an `oom` or `timeout` longer ones are skipped."""
        return self.method, self.impl, self.measure, self.phase, self.level


def expand(plan: Plan) -> list[Cell]:
    """The cells of a plan. Short ones come first and methods take turns, so that drift hurts all alike."""
    return [*_shaped(plan, "speed"), *_shaped(plan, "memory"), *_quality(plan)]


def _shaped(plan: Plan, measure: str) -> Iterator[Cell]:
    if measure not in plan.measure:
        return
    shape = {"batch": plan.batch, "heads": plan.heads, "head_size": plan.head_size}
    shape |= {"kv_heads": plan.kv_heads} if plan.kv_heads not in (0, plan.heads) else {}
    for length in sorted(plan.lengths):
        for level, phase in product(plan.levels, plan.phases):
            case = {**shape, "layers": plan.layers} if level == "decoder" else shape
            for combination, impl in _measured(plan):
                yield _cell(plan, combination, impl, measure, phase, case, level=level, length=length)


def _quality(plan: Plan) -> Iterator[Cell]:
    if "quality" not in plan.measure:
        return
    for task in plan.tasks:
        case: dict[str, Any] = {"preset": plan.preset}
        if task == "language_model":
            case |= {"corpus": plan.corpus, "corpus_digest": corpus_digest(plan.corpus)}
        for combination, impl in _measured(plan):
            yield _cell(plan, combination, impl, "quality", task, case)


def _measured(plan: Plan) -> list[tuple[Combination, str]]:
    return [(combination, impl) for combination in plan.combinations for impl in plan.impls_of(combination)]


def _cell(
    plan: Plan,
    combination: Combination,
    impl: str,
    measure: str,
    phase: str,
    case: dict[str, Any],
    *,
    level: str = "",
    length: int = 0,
) -> Cell:
    return Cell(
        method=combination.spec,
        options=combination.options,
        impl=impl,
        measure=measure,
        phase=phase,
        level=level,
        policy=resolve_policy(plan.policy, plan.device) if measure == "speed" else "",
        T=length,
        case=case,
        dtype=plan.dtype,
        device=plan.device,
        budget=plan.budget if measure == "speed" else 0.0,
        threads=plan.threads or os.cpu_count() or 1,
        memory_gib=plan.memory_gib,
        seed=plan.seed,
        source=source_digest(combination),
        environment=environment_digest(),
    )


def resolve_policy(policy: str, device: str) -> str:
    """The policy that `auto` stands for on a device."""
    if policy != "auto":
        return policy
    return "gpu_cold" if device == "cuda" else "wall"


@lru_cache(maxsize=1)
def environment_digest() -> str:
    """Hash of the engine's own source, and of the versions and the machine that numbers depend on."""
    digest = hashlib.sha256(json.dumps(environment(), sort_keys=True).encode())
    root = Path(__file__).parents[1]
    for name in ENGINE:
        place = root / name
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@lru_cache(maxsize=1)
def environment() -> dict[str, str]:
    """Versions and machine, recorded with every row; found without loading torch."""
    return {
        "machine": machine_name(),
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "longatlas": metadata.version("longatlas"),
        "platform": f"{sys.platform}-{platform.machine()}",
    }


@lru_cache(maxsize=1)
def machine_name() -> str:
    """Processor and number of cores, such as "AMD EPYC, 2 cores"."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name}, {os.cpu_count()} cores"
