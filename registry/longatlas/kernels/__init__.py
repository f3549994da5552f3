"""What kernels in Triton share: starting them, checking their arguments, sizes of tiles; for plugin authors too.

A method's kernels lie in the folder `kernels/` beside its `fast.py`. Nothing here imports triton before a kernel is
started, so that a card may name the impl `triton` where triton is missing.
"""

from typing import TYPE_CHECKING

from longatlas.lazy import lazy_exports

if TYPE_CHECKING:
    from longatlas.kernels.arguments import (
        KERNEL_DTYPES,
        check_contiguous,
        check_device,
        check_dtype,
        check_head_size,
        is_interpreting,
        obstacle,
    )
    from longatlas.kernels.launching import Launch, capability, launch, recorded_launches
    from longatlas.kernels.tiles import padded, processors

__all__ = [
    "KERNEL_DTYPES",
    "Launch",
    "capability",
    "check_contiguous",
    "check_device",
    "check_dtype",
    "check_head_size",
    "is_interpreting",
    "launch",
    "obstacle",
    "padded",
    "processors",
    "recorded_launches",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "KERNEL_DTYPES": ".arguments",
        "check_contiguous": ".arguments",
        "check_device": ".arguments",
        "check_dtype": ".arguments",
        "check_head_size": ".arguments",
        "is_interpreting": ".arguments",
        "obstacle": ".arguments",
        "Launch": ".launching",
        "capability": ".launching",
        "launch": ".launching",
        "recorded_launches": ".launching",
        "padded": ".tiles",
        "processors": ".tiles",
    },
)
