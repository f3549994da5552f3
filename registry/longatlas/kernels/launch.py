"""Starting a kernel, or noting down what would be started."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Launch:
    """One start of a kernel.

    kernel     the function decorated with triton.jit
    grid       programs along each axis
    arguments  name -> tensor, number, constexpr or None, as the kernel was given them
    warps      per program; stages: how many iterations of a loop its loads run ahead
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    warps: int
    stages: int

    @property
    def name(self) -> str:
        return str(self.kernel.__name__)


_recorder: ContextVar[list[Launch] | None] = ContextVar("recorder", default=None)


def launch(kernel: Any, grid: tuple[int, ...], *, warps: int = 4, stages: int = 2, **arguments: Any) -> None:
    """Start `kernel` on the device of its tensors; every argument by name. A grid with a zero starts nothing."""
    if 0 in grid:
        return
    launches = _recorder.get()
    if launches is not None:
        launches.append(Launch(kernel, grid, arguments, warps, stages))
        return
    tensor = next(value for value in arguments.values() if isinstance(value, torch.Tensor))
    # Triton starts a kernel on the current device, which need not be that of the tensors.
    with torch.cuda.device_of(tensor):  # type: ignore[no-untyped-call]
        kernel[grid](**arguments, num_warps=warps, num_stages=stages)


@contextmanager
def recorded_launches() -> Iterator[list[Launch]]:
    """Inside it `launch` starts nothing, on any device: it fills the list instead. Results of operations are undefined.

    So a test can compile what a call would start, on a machine without a GPU (longatlas.testing.compiled).
    """
    launches: list[Launch] = []
    token = _recorder.set(launches)
    try:
        yield launches
    finally:
        _recorder.reset(token)


def is_recording() -> bool:
    return _recorder.get() is not None
