"""The memory pass of a cell: what is there before, what is made, what is saved, what is left. Never while timing."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from longatlas.decoder.state import state_bytes
from longatlas.measure import ranked_memory
from longatlas.measure.levels import (
    Inputs,
    Subject,
    build,
    forward_once,
    held,
    phase_runner,
    reset_gradients,
)
from longatlas.measure.live_bytes import LiveBytes
from longatlas.measure.ranks import ranks_of

Row = dict[str, Any]


def memory_of(cell: dict[str, Any], cache: str = "") -> list[Row]:
    """All rows of a memory cell (a mapping of its fields); it needs no trained hosts."""
    if ranks_of(cell) > 1:
        return ranked_memory.memory_rows(cell)
    return memory_rows(build(cell), cell["phase"], cell["T"], cell["device"])


def memory_rows(subject: Subject, phase: str, length: int, device: str) -> list[Row]:
    """Bytes of one phase, counted at every operation after an uncounted first call.

    weight_bytes         parameters and buffers that the level reads
    input_bytes          what the call is given, without its state
    peak_bytes           made by the phase and alive at once, at most
    saved_bytes          kept for backward, weights and inputs left out (train)
    state_bytes          what is carried on after T tokens (prefill)
    workspace_bytes      peak less what was saved and what the phase leaves behind (outputs, state, gradients)
    resident_peak_bytes  the worker's peak resident size during the pass, Python and torch included
    allocated_peak_bytes the most that CUDA's allocator had handed out, less the start (CUDA)
    """
    once = phase_runner(subject, phase, length)
    once()
    inputs, state = once.inputs, once.state
    reset_gradients(subject, inputs)
    resident, allocated = ResidentPeak(), AllocatedPeak(device)
    with LiveBytes() as counter:
        saved, left = _train(subject, inputs) if phase == "train" else (0, forward_once(subject, inputs, state))
        at_end = counter.live
    found: dict[str, int | None] = {
        "peak_bytes": counter.peak,
        "weight_bytes": state_bytes(subject.weights()),
        "input_bytes": state_bytes(list(inputs)),
        "saved_bytes": saved if phase == "train" else None,
        "workspace_bytes": max(0, counter.peak - saved - at_end),
        "state_bytes": state_bytes(left[1]) if phase == "prefill" and left else None,
        "resident_peak_bytes": resident.read(),
        "allocated_peak_bytes": allocated.read(),
    }
    return [
        {"metric": name, "unit": "bytes", "value": float(value), "n": 1}
        for name, value in found.items()
        if value is not None
    ]


def _train(subject: Subject, inputs: Inputs) -> tuple[int, None]:
    """Forward and backward; the bytes that forward saved."""
    known = {_storage(t) for t in (*held(subject.module), *inputs)}
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in known:
            saved[_storage(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        y, gradient = subject.train_forward(inputs)
    kept = sum(saved.values())
    torch.autograd.backward(y, gradient)
    return kept, None


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


class ResidentPeak:
    """The peak resident size of this process from now on; since its start where the kernel cannot forget it."""

    def __init__(self) -> None:
        with suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as stream:
            stream.write("5")

    def read(self) -> int:
        """Bytes."""
        with suppress(OSError), open("/proc/self/status", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("VmHWM:"):
                    return 1024 * int(line.split()[1])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


class AllocatedPeak:
    """What CUDA's allocator hands out at most, less what it had handed out at the start."""

    def __init__(self, device: str) -> None:
        self._on = device == "cuda"
        if self._on:
            torch.cuda.reset_peak_memory_stats()
            self._start = torch.cuda.memory_allocated()

    def read(self) -> int | None:
        """Bytes, or None on a CPU."""
        return torch.cuda.max_memory_allocated() - self._start if self._on else None
