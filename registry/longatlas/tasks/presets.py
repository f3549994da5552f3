"""What the cards of tasks are made of: settings of presets, and a `run` whose module is loaded when it is called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from longatlas.lazy import Later


def later(module: str, *arguments: str) -> Later:
    """The `run` of a task's module, imported (and torch with it) when it is called."""
    return Later(f"longatlas.tasks.{module}", "run", arguments)


def settings(base: Mapping[str, Any] | None = None, **more: Any) -> Mapping[str, Any]:
    """Settings of a preset: those of a base, with more or others."""
    return {**(base or {}), **more}


# Seconds, for tests; and one CPU thread for a minute or two: one rate and one seed, ended once the task is learnt.
TINY = {"d_model": 32, "batch": 16, "steps": 20, "conv": 3, "lrs": (3e-3,), "trials": 32}
SMALL = {"d_model": 64, "batch": 64, "conv": 3, "lrs": (3e-3,), "seeds": 1, "stop": 0.995, "trials": 256}
