"""What kernels in Triton share: starting them, checking their arguments, sizes of tiles; for plugin authors too.

A method's kernels lie in the folder `kernels/` beside its `torch.py`. Nothing here imports triton before a kernel is
started, so that a card may name the impl `triton` where triton is missing.
"""

from longatlas.kernels.arguments import (
    KERNEL_DTYPES,
    check_contiguous,
    check_device,
    check_dtype,
    check_head_size,
    obstacle,
)
from longatlas.kernels.launch import Launch, launch, recorded_launches
from longatlas.kernels.tiles import padded, processors

__all__ = [
    "KERNEL_DTYPES",
    "Launch",
    "check_contiguous",
    "check_device",
    "check_dtype",
    "check_head_size",
    "launch",
    "obstacle",
    "padded",
    "processors",
    "recorded_launches",
]
