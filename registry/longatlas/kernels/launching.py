"""Starting a kernel, or noting down what would be started."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch


@dataclass(frozen=True)
class Launch:
    """One start of a kernel.

    kernel     the function decorated with triton.jit
    grid       programs along each axis
    arguments  name -> tensor, number, constexpr or None, as the kernel was given them
    warps      per program; stages: how many iterations of a loop its loads run ahead
    registers  per thread at most; None leaves them to the compiler, which may spill a few to fit one more program
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    warps: int
    stages: int
    registers: int | None = None

    @property
    def name(self) -> str:
        return str(self.kernel.__name__)


class _Recorder(NamedTuple):
    launches: list[Launch]
    capability: int


_recorder: ContextVar[_Recorder | None] = ContextVar("recorder", default=None)


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    *,
    warps: int = 4,
    stages: int = 2,
    registers: int | None = None,
    **arguments: Any,
) -> None:
    """Start `kernel` on the device of its tensors; every argument by name. A grid with a zero starts nothing."""
    if 0 in grid:
        return
    recorder = _recorder.get()
    if recorder is not None:
        recorder.launches.append(Launch(kernel, grid, arguments, warps, stages, registers))
        return
    tensor = next(value for value in arguments.values() if isinstance(value, torch.Tensor))
    # Triton starts a kernel on the current device, which need not be that of the tensors.
    with torch.cuda.device_of(tensor):  # type: ignore[no-untyped-call]
        kernel[grid](**arguments, num_warps=warps, num_stages=stages, maxnreg=registers)


@contextmanager
def recorded_launches(capability: int = 90) -> Iterator[list[Launch]]:
    """Inside it `launch` starts nothing, on any device: it fills the list instead. Results of operations are undefined.

    So a test can compile what a call would start on a GPU of compute capability 80 or 90 (longatlas.testing.compiled).
    """
    recorder = _Recorder([], capability)
    token = _recorder.set(recorder)
    try:
        yield recorder.launches
    finally:
        _recorder.reset(token)


def is_recording() -> bool:
    return _recorder.get() is not None


def capability(device: torch.device) -> int:
    """The compute capability that launches are for: 80 for an A100, 90 for an H100; 90 where there is no GPU."""
    recorder = _recorder.get()
    if recorder is not None:
        return recorder.capability
    if device.type != "cuda":
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
