"""The quality tasks. Data comes from a seed, never from a small fixed set; every method gets the same budget.

A task's `run(session)` trains decoders and returns metrics: dicts with metric, value, unit, T, and where they are
known low, high and n.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from longatlas import Task, hookimpl


def _later(module: str) -> Callable[..., Any]:
    """The `run` of a task's module, imported (and torch with it) when it is called."""

    def run(session: Any) -> Any:
        from importlib import import_module

        return import_module(f"longatlas.tasks.{module}").run(session)

    return run


TASKS = (
    Task(
        name="language_model",
        title="Byte-level language model",
        summary="Bits per byte of real text by position, up to eight times the training length.",
        run=_later("language_model"),
        presets={
            "smoke": {
                "d_model": 32,
                "layers": 1,
                "heads": 2,
                "length": 32,
                "batch": 8,
                "steps": 20,
                "sequences": 8,
            },
            "demo": {
                "d_model": 64,
                "layers": 2,
                "heads": 4,
                "length": 256,
                "batch": 8,
                "steps": 200,
                "sequences": 16,
            },
            "quick": {
                "d_model": 128,
                "layers": 2,
                "heads": 4,
                "length": 256,
                "batch": 16,
                "steps": 900,
                "sequences": 16,
            },
        },
        example="Trained on 256 bytes at a time; T = 1024 is the mean loss at bytes 513 to 1024 of held-out text.",
    ),
    Task(
        name="mqar",
        title="Multi-query associative recall",
        summary="Recall of several key-value pairs seen earlier: what a state of a given size can hold.",
        paper="2312.04927",
        run=_later("mqar"),
        presets={
            "smoke": {
                "vocab": 32,
                "length": 16,
                "pairs": 2,
                "d_model": 32,
                "batch": 16,
                "steps": 20,
                "conv": 3,
                "lr": 3e-3,
            },
            "demo": {
                "vocab": 256,
                "length": 64,
                "pairs": 4,
                "d_model": 64,
                "batch": 64,
                "steps": 200,
                "conv": 3,
                "lr": 3e-3,
            },
            "quick": {
                "vocab": 256,
                "length": 64,
                "pairs": 4,
                "d_model": 64,
                "batch": 64,
                "steps": 800,
                "conv": 3,
                "lr": 3e-3,
            },
        },
        example="A 4 B 7 C 1 ... C ? -> 1 ... A ? -> 4: at each repeated key the answer is the value that followed it.",
    ),
    Task(
        name="passkey",
        title="Segment-split passkey",
        summary="A passkey hidden at ten depths, asked for in a later call: what is carried across calls and lengths.",
        paper="2305.16300",
        run=_later("passkey"),
        presets={
            "smoke": {
                "length": 32,
                "lengths": [32],
                "d_model": 32,
                "batch": 8,
                "steps": 10,
                "trials": 2,
                "lr": 3e-3,
            },
            "demo": {
                "length": 128,
                "lengths": [128, 256, 512],
                "d_model": 64,
                "batch": 32,
                "steps": 200,
                "trials": 4,
                "lr": 3e-3,
            },
            "quick": {
                "length": 128,
                "lengths": [128, 256, 512, 1024],
                "d_model": 64,
                "batch": 32,
                "steps": 900,
                "trials": 8,
                "lr": 3e-3,
            },
        },
        example="noise KEY 9 2 noise noise | QUERY ? -> 9 2; the bar is where one call ends and the next begins.",
    ),
)


@hookimpl
def register_tasks(register: Callable[[Task], None]) -> None:
    for task in TASKS:
        register(task)
