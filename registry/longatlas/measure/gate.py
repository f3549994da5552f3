"""Correctness first: an implementation that is not right gets no time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

from longatlas.combination import parse_spec
from longatlas.errors import UnsupportedError
from longatlas.measure import ranks as of_ranks
from longatlas.testing.case import make_case
from longatlas.testing.checks import causality
from longatlas.testing.impls import Agreement, compare_impl

LENGTH = 63  # tokens; an odd number, beyond the windows and segments that a case scales down


@dataclass(frozen=True)
class Verdict:
    """red  "" or what differs; error  how far the impl is from the fp64 reference in the cell's dtype, RMS ratio"""

    red: str
    error: float = float("nan")


def begin(cell: dict[str, Any]) -> Verdict:
    """Look at a cell's correctness, then set its number of threads. Raises UnsupportedError where a GPU is missing."""
    if cell["device"] == "cuda" and not torch.cuda.is_available():
        raise UnsupportedError("torch finds no GPU here; `longatlas doctor` says why")
    of_ranks.check(cell)
    how = (cell["impl"], cell["device"], cell["dtype"], "kv_heads" in cell["case"])
    found = verdict(cell["method"], *how, of_ranks.ranks_of(cell))
    torch.set_num_threads(cell["threads"])
    return found


@cache
def verdict(spec: str, impl: str, device: str, dtype: str, grouped: bool = False, ranks: int = 1) -> Verdict:
    """Whether an impl agrees with the method's reference, and no output depends on a later token; once per worker.

    The shapes are small; outputs, state and gradients are compared. With `grouped` two query heads share each of k, v.
    Several ranks are compared with one.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        case = make_case(parse_spec(spec), device)
        if grouped:
            case = replace(case, config=replace(case.config, n_kv_heads=case.config.n_heads // 2))
        found: Agreement = compare_impl(case, impl, LENGTH, getattr(torch, dtype))
        causality(case)
        if ranks > 1:
            of_ranks.compare(case, ranks, impl)
    except AssertionError as error:
        return Verdict(str(error) or "an assertion in the method failed")
    finally:
        torch.set_num_threads(threads)
    return Verdict("", found.worst)
