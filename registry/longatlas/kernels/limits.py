"""What kernels take, as plain values: known without torch, so that a card's `auto` can be resolved quickly."""

from __future__ import annotations

DTYPES = ("float32", "bfloat16", "float16")
LARGEST_HEAD, HEAD_STEP = 256, 16


def fits(size: int) -> bool:
    """Whether kernels take heads of this size."""
    return 0 < size <= LARGEST_HEAD and size % HEAD_STEP == 0


def case_obstacle(dtype: str, head_size: int | None) -> str:
    """Why kernels do not take a dtype ("float64") or a head size; "" when they do. None = not known."""
    if dtype and dtype not in DTYPES:
        return f"triton kernels have no {dtype}"
    if head_size is not None and not fits(head_size):
        return f"triton kernels take head sizes that are multiples of {HEAD_STEP} up to {LARGEST_HEAD}, not {head_size}"
    return ""
