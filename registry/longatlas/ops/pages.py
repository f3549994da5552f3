"""Huge pages for large fresh tensors on a CPU."""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache
from typing import Any

from torch import Tensor

WORTH_BYTES = 32 << 20  # from here on the C library takes fresh pages from the system for every tensor
PAGE = 2 << 20
MADV_HUGEPAGE = 14


def with_huge_pages(fresh: Tensor) -> Tensor:
    """Return `fresh`, an uninitialised tensor, after asking Linux to back it by pages of 2 MiB.

    Where an operation is linear in T, faulting in its output by pages of 4 KiB costs a tenth of its time or more. The
    advice may be ignored; on other systems and devices nothing is asked.
    """
    size = fresh.untyped_storage().nbytes()
    if sys.platform == "linux" and fresh.device.type == "cpu" and size >= WORTH_BYTES:
        start = -(-fresh.data_ptr() // PAGE) * PAGE
        length = fresh.data_ptr() + size - start
        _c_library().madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), MADV_HUGEPAGE)
    return fresh


@lru_cache(maxsize=1)
def _c_library() -> Any:
    return ctypes.CDLL(None)
