"""What several ranks take together: the slowest one's time, the largest one's bytes, and what they send each other."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed
from torch.utils import _pytree, benchmark
from torch.utils._python_dispatch import TorchDispatchMode

from longatlas.cards import PEER
from longatlas.combination import parse_spec
from longatlas.errors import UnsupportedError
from longatlas.measure import levels
from longatlas.measure.policies import Run
from longatlas.measure.rows import Row
from longatlas.measure.speed import Timing
from longatlas.parallel import Launcher
from longatlas.testing.case import Case
from longatlas.testing.ranks import compare_ranks

SLICE = 0.5  # seconds of samples at once
LONGEST = 7 * 86_400.0  # seconds; the cell's own timeout ends it before

Cell = dict[str, Any]


def ranks_of(cell: Cell) -> int:
    """How many ranks a cell (a mapping of its fields) is measured with."""
    return int(cell["case"].get("ranks", 1))


def check(cell: Cell) -> None:
    """Raise UnsupportedError for a cell of several ranks that cannot be measured here, with the rule that it breaks."""
    n = ranks_of(cell)
    if n == 1:
        return
    if not parse_spec(cell["method"]).ranks or cell["impl"].startswith(PEER):
        raise UnsupportedError(
            f"ranks is {n}, and it computes in one process: its card does not say ranks=True"
            + (", and peers have no ranks" if cell["impl"].startswith(PEER) else "")
        )
    is_gpu = cell["device"] == "cuda"
    most = torch.cuda.device_count() if is_gpu else os.cpu_count() or 1
    if n > most:
        what = "GPUs" if is_gpu else "CPU cores"
        raise UnsupportedError(f"ranks is {n}; each takes one of this machine's {what}, and it has {most}")
    if cell["policy"].startswith("gpu"):
        raise UnsupportedError(f"policy is {cell['policy']}; several ranks are timed by the host's clock: policy wall")


def compare(case: Case, n: int, impl: str) -> None:
    """Fail where n ranks do not give what one gives."""
    with Launcher() as launcher:
        compare_ranks(case, n, impl, launcher)


class RankedTiming:
    """The samples of a cell, taken by its ranks all at once; it is done when it is made.

    A sample is the slowest rank's time of one repetition, which all begin together. It takes no turns with other cells:
    its ranks keep the machine.
    """

    is_done = True

    def __init__(self, cell: Cell) -> None:
        start = time.perf_counter()
        self._rows = _each(cell, _time)[0]
        self.work_seconds = time.perf_counter() - start

    def sample(self, seconds: float) -> None:
        """Nothing is left to do."""

    def rows(self) -> list[Row]:
        """As those of longatlas.measure.speed.Timing."""
        return self._rows


def memory_rows(cell: Cell) -> list[Row]:
    """The memory pass in each rank, of each number the largest; and `collective_elements`.

    These are the elements of all tensors that a rank hands to collectives or sends in one repetition, backward included
    in training, counted as they are called: of a sum over the ranks the whole tensor, of a gathering the own part.
    """
    by_rank = [{row["metric"]: row for row in rows} for rows in _each(cell, _memory)]
    return [max((rows[metric] for rows in by_rank), key=lambda row: row["value"]) for metric in by_rank[0]]


def _each(cell: Cell, function: Callable[..., list[Row]]) -> list[list[Row]]:
    with Launcher() as launcher:
        return launcher.run(ranks_of(cell), function, cell, timeout=LONGEST, device=cell["device"])


def _time(rank: int, n: int, cell: Cell) -> list[Row]:
    timing = Timing(_repetition(n, cell), _together, cell["budget"], agree=_slowest)
    while not timing.is_done:
        timing.sample(min(SLICE, cell["budget"] / 2))
    return timing.rows(cell["phase"], levels.tokens_of(cell))


def _memory(rank: int, n: int, cell: Cell) -> list[Row]:
    from longatlas.measure.memory import memory_rows

    once = _repetition(n, cell)
    with CollectiveElements() as sent:
        once()
    rows = memory_rows(once.subject, cell["phase"], cell["T"], cell["device"])
    return [*rows, {"metric": "collective_elements", "unit": "elements", "value": float(sent.elements), "n": 1}]


def _repetition(n: int, cell: Cell) -> levels.Repetition:
    torch.set_num_threads(max(1, cell["threads"] // n))
    return levels.phase_runner(levels.build(cell), cell["phase"], cell["T"])


def _together(run: Run, seconds: float, most: int) -> list[float]:
    """A policy: samples that begin together in all ranks, and are the slowest rank's."""
    samples: list[float] = []
    while not samples or (sum(samples) < seconds and len(samples) < most):
        distributed.barrier()
        start = benchmark.timer()
        run()
        samples.append(_slowest(benchmark.timer() - start))
    return samples


def _slowest(seconds: float) -> float:
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    longest = torch.tensor([seconds], dtype=torch.float64, device=device)
    distributed.all_reduce(longest, distributed.ReduceOp.MAX)
    return float(longest)


class CollectiveElements(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what this rank hands to torch.distributed inside it, DTensor's collectives included.

    elements  of all tensors given; what is received does not count
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(hasattr(kind, "to_local") for kind in types):
            return NotImplemented  # a DTensor takes its operations apart, and they come here again
        schema = func._schema
        if schema.name.partition("::")[0] in ("c10d", "_c10d_functional"):
            for parameter, argument in zip(schema.arguments, args, strict=False):
                if parameter.name in GIVEN and not schema.name.endswith(NOTHING_GIVEN):
                    self.elements += sum(t.numel() for t in _pytree.tree_leaves(argument) if isinstance(t, Tensor))
        return func(*args, **(kwargs or {}))


# How torch's collectives name what they are given, and those of them that give nothing.
GIVEN = ("tensors", "tensor", "input", "inputs", "input_tensor", "input_tensors", "input_list")
NOTHING_GIVEN = ("::recv_", "::recv_any_source_", "::irecv", "::barrier", "::monitored_barrier_", "::wait_tensor")
