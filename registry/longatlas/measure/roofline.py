"""The roofline: a machine's peaks, measured by one matmul and one copy, and a cell's share of them.

Source: Williams, Waterman and Patterson, "Roofline", Communications of the ACM 52(4), 2009.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from longatlas.errors import LongAtlasError, UnsupportedError, unknown_name
from longatlas.words import DTYPES, PHASES

LONG_ENOUGH = 0.03  # seconds of one sample: the clock, a launch and a wake-up are far below
SAMPLES = 5
FIRST_SIZE, LARGEST_SIZE = 256, 16384  # rows of the matmul's square matrices
COPY_BYTES = {"cpu": 256 << 20, "cuda": 1 << 30}  # beyond the last-level cache

Run = Callable[[], None]


@dataclass(frozen=True)
class Peaks:
    """What a device reaches in one dtype: operations per second in a matmul, bytes per second in a copy.

    A multiply-add is two operations; a copied byte counts twice, as read and as written.
    """

    flops_per_s: float
    bytes_per_s: float

    def to_dict(self) -> dict[str, float]:
        """Plain numbers, for a file or a row."""
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Peaks:
        """What `to_dict` gave. Raises LongAtlasError where a number is missing or not positive."""
        try:
            peaks = cls(float(saved["flops_per_s"]), float(saved["bytes_per_s"]))
        except (KeyError, TypeError, ValueError):
            peaks = cls(0.0, 0.0)
        if not (peaks.flops_per_s > 0 and peaks.bytes_per_s > 0):
            raise LongAtlasError(
                f"saved peaks are {dict(saved)}; they must hold positive flops_per_s and bytes_per_s: measure them anew"
            )
        return peaks


class Shares(NamedTuple):
    """A cell under the roofline; shares are of the peaks, 1 = all.

    compute, bandwidth  operations and compulsory bytes per second over the peaks
    binds               "compute" or "bandwidth": the bound that is nearer
    """

    compute: float
    bandwidth: float
    binds: str


def shares(flops: float, moved: float, seconds: float, peaks: Peaks) -> Shares:
    """Where a cell that does `flops` operations and must move `moved` bytes in `seconds` stands.

    Raises LongAtlasError unless the time is positive.
    """
    if not seconds > 0:
        raise LongAtlasError(f"seconds is {seconds}; a share of a peak needs a positive time")
    compute = flops / seconds / peaks.flops_per_s
    bandwidth = moved / seconds / peaks.bytes_per_s
    return Shares(compute, bandwidth, "compute" if compute >= bandwidth else "bandwidth")


@dataclass(frozen=True)
class Traffic:
    """Bytes of the tensors that a call takes and leaves: of weights, inputs, outputs, and the state before and after.

    `state_in` is the state before the call, `state_out` what `written_state` says of the one after it.
    """

    weights: int
    inputs: int
    outputs: int
    state_in: int = 0
    state_out: int = 0


def moved_bytes(traffic: Traffic, phase: str) -> int:
    """The compulsory traffic of a phase, bytes: what no implementation can save, with a cache that holds the rest.

    prefill, decode  weights, inputs and old state are read once, outputs and new state are written once
    train            forward as above, without a state. Backward reads weights, inputs and the outputs' gradients once
                     more, and writes the gradients of weights and inputs once: weights count 3 times (2 reads, 1
                     write), inputs 3 times, outputs twice. What forward saves in between could be computed again, so
                     it does not count; an optimiser's step is not part of the phase.

    Raises LongAtlasError for an unknown phase.
    """
    if phase not in PHASES:
        raise unknown_name("phase", phase, PHASES)
    if phase == "train":
        return 3 * traffic.weights + 3 * traffic.inputs + 2 * traffic.outputs
    return traffic.weights + traffic.inputs + traffic.state_in + traffic.outputs + traffic.state_out


def written_state(before: int, after: int) -> int:
    """Bytes that a call writes of a state: a cache that grew gets its growth, any other state is written whole.

    before, after  bytes of the state before and after the call. A window that drops a token for each new one keeps its
    size, so it counts as written whole, though one token would do.
    """
    return after - before if after > before else after


def roofline_rows(flops: float | None, moved: int, seconds: float, peaks: Peaks | None) -> list[dict[str, Any]]:
    """Rows of a timed cell: its operations and bytes, and their shares of the machine's peaks where both are known."""
    found: list[tuple[str, str, float]] = [("moved_bytes", "bytes", moved)]
    found += [("flops", "operations", flops)] if flops is not None else []
    if peaks is not None:
        share = shares(flops or 0.0, moved, seconds, peaks)
        found += [("bandwidth_share", "share", share.bandwidth)]
        found += [("compute_share", "share", share.compute)] if flops is not None else []
    return [{"metric": metric, "unit": unit, "value": float(value), "n": 1} for metric, unit, value in found]


def machine_peaks(device: str, dtype: str, threads: int | None = None) -> Peaks:
    """Measure a device ("cpu", "cuda"): the best of several matmuls and copies, one to two seconds in all.

    dtype    a name in DTYPES; float32 on a CUDA device is what the process has set, by default without tf32
    threads  of the CPU; None = as the process has them. They are set back afterwards

    Raises LongAtlasError for an unknown dtype or fewer than one thread, UnsupportedError where the device is missing.
    """
    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    if threads is not None and threads < 1:
        raise LongAtlasError(f"threads is {threads}; it must be at least 1")
    if device == "cuda" and not torch.cuda.is_available():
        raise UnsupportedError("torch finds no GPU here; `longatlas doctor` says why")
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        with torch.no_grad():
            return Peaks(_matmul_peak(device, getattr(torch, dtype)), _copy_peak(device))
    finally:
        torch.set_num_threads(before)


def _matmul_peak(device: str, dtype: torch.dtype) -> float:
    """Operations per second of a square matmul, its size doubled until one takes long enough."""
    size = FIRST_SIZE
    run = _matmul(size, device, dtype)
    while size < LARGEST_SIZE and (seconds := _seconds(run, device)) < LONG_ENOUGH:
        # A product of twice the size takes eight times as long.
        size *= 4 if seconds < LONG_ENOUGH / 64 else 2
        run = _matmul(size, device, dtype)
    return 2 * size**3 / _best(run, device)


def _matmul(size: int, device: str, dtype: torch.dtype) -> Run:
    a, b = (_random(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)

    def run() -> None:
        torch.mm(a, b, out=out)

    run()  # the first call chooses a kernel
    return run


def _copy_peak(device: str) -> float:
    """Bytes per second read and written by a copy from one large buffer to another."""
    size = COPY_BYTES.get(torch.device(device).type, COPY_BYTES["cuda"])
    source = torch.ones(size // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)

    def run() -> None:
        target.copy_(source)

    run()  # the first call gets the pages
    return 2 * size / _best(run, device)


def _random(*shape: int, device: str) -> Tensor:
    # Zeros would draw less power than numbers do, and a GPU's clock rises with it.
    return torch.randn(*shape, device=device)


def _best(run: Run, device: str) -> float:
    return min(_seconds(run, device) for _ in range(SAMPLES))


def _seconds(run: Run, device: str) -> float:
    """Of one run; on a CUDA device between two events, so that launching does not count."""
    if torch.device(device).type != "cuda":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    first.record()
    run()
    last.record()
    torch.cuda.synchronize()
    return float(first.elapsed_time(last)) / 1000
