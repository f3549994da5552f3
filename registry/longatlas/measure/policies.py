"""How a time is taken. Every stored time names its policy; there is no unlabelled latency."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch.utils import benchmark

from longatlas.errors import UnsupportedError

Run = Callable[[], object]
Policy = Callable[[Run, float, int], list[float]]  # what to run, for about how many seconds, samples at most

BATCH_SECONDS = 0.1  # of repetitions in one call of triton's timers


def wall(run: Run, seconds: float, most: int) -> list[float]:
    """Seconds on the host's clock, launch overhead included; the device is waited for before and after.

    torch's own clock does the waiting. Its Timer stops by the quartiles, not by the interval of the median.
    """
    samples: list[float] = []
    with _no_garbage_collection():
        while not samples or (sum(samples) < seconds and len(samples) < most):
            start = benchmark.timer()
            run()
            samples.append(benchmark.timer() - start)
    return samples


def gpu_cold(run: Run, seconds: float, most: int) -> list[float]:
    """Seconds between device events, the L2 cache flushed before each repetition (triton.testing.do_bench)."""
    from triton import testing

    batch = 1000 * min(seconds, BATCH_SECONDS)
    milliseconds: list[float] = testing.do_bench(run, warmup=batch / 4, rep=batch, return_mode="all")
    return [time / 1000 for time in milliseconds[:most]]


def gpu_hot(run: Run, seconds: float, most: int) -> list[float]:
    """Seconds of one call in the replay of a CUDA graph: no launch overhead, caches warm (triton.testing).

    Raises UnsupportedError for what cannot be captured in a graph.
    """
    from triton import testing

    batch = 1000 * min(seconds, BATCH_SECONDS)
    try:
        milliseconds: list[float] = testing.do_bench_cudagraph(run, rep=batch, return_mode="all")
    except RuntimeError as error:
        if "captur" not in str(error) and "graph" not in str(error):
            raise
        first = str(error).splitlines()[0]
        raise UnsupportedError(f"policy gpu_hot needs a CUDA graph, and it cannot be captured: {first}") from None
    return [time / 1000 for time in milliseconds[:most]]


POLICIES: dict[str, Policy] = {"wall": wall, "gpu_cold": gpu_cold, "gpu_hot": gpu_hot}


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Keep Python's collector out of the samples; what it would have found waits."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
