"""Cells of several ranks: which can be measured here, what must agree first, and how each rank is asked."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from longatlas.cards import PEER
from longatlas.combination import parse_spec
from longatlas.errors import UnsupportedError
from longatlas.measure import levels
from longatlas.measure.rows import Row
from longatlas.parallel import Launcher
from longatlas.testing.case import Case
from longatlas.testing.ranks import compare_ranks

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


def each(cell: Cell, function: Callable[..., list[Row]]) -> list[list[Row]]:
    """What function(rank, n, cell) gives in every rank."""
    with Launcher() as launcher:
        return launcher.run(ranks_of(cell), function, cell, timeout=LONGEST, device=cell["device"])


def repetition(n: int, cell: Cell) -> levels.Repetition:
    """One repetition of a cell's phase in a rank, which has its share of the threads."""
    torch.set_num_threads(max(1, cell["threads"] // n))
    return levels.phase_runner(levels.build(cell), cell["phase"], cell["T"])
