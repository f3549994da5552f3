"""Sizes that kernels are cut into."""

from __future__ import annotations

from functools import lru_cache

import torch

# Assumed where no GPU is at hand, and work is only cut for the interpreter or the compiler: an H100's.
PROCESSORS_ELSEWHERE = 132


def padded(size: int) -> int:
    """The smallest power of two that holds `size`, at least 16: what a tile of a kernel and tl.dot allow."""
    return max(16, 1 << (size - 1).bit_length())


def processors(device: torch.device) -> int:
    """Streaming multiprocessors of a device."""
    if device.type != "cuda":
        return PROCESSORS_ELSEWHERE
    return _processors(device.index if device.index is not None else torch.cuda.current_device())


@lru_cache
def _processors(index: int) -> int:
    return int(torch.cuda.get_device_properties(index).multi_processor_count)
