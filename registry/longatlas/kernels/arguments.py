"""What kernels may be given: each error names the argument, what came, what is allowed and what to do."""

from __future__ import annotations

import importlib.util
import os

import torch
from torch import Tensor

from longatlas.errors import LongAtlasError
from longatlas.kernels.launching import is_recording
from longatlas.kernels.limits import DTYPES, HEAD_STEP, LARGEST_HEAD, fits
from longatlas.ops.arguments import check_same_device

KERNEL_DTYPES = tuple(getattr(torch, name) for name in DTYPES)


def obstacle(**tensors: Tensor) -> str:
    """Why kernels cannot run on these tensors here, for `impl="auto"`; "" when they can.

    Looks at where they are, at the dtype of the first, and at the last dimension of those that are [B, T, H, D].
    """
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    for check in (check_device, check_dtype):
        try:
            check(**tensors)
        except LongAtlasError as error:
            return str(error)
    misfits = (
        f"{name} has head size {t.shape[3]}" for name, t in tensors.items() if t.ndim == 4 and not fits(t.shape[3])
    )
    return next(misfits, "")


def check_device(**tensors: Tensor) -> None:
    """All on one CUDA device; or on the CPU under Triton's interpreter."""
    name, first = next(iter(tensors.items()))
    if first.device.type != "cuda" and not (is_interpreting() or is_recording()):
        raise LongAtlasError(
            f"{name} is on {first.device}; impl='triton' runs on an NVIDIA GPU: move the tensors there, choose "
            "impl='torch', or set TRITON_INTERPRET=1 before triton is imported to run kernels on the CPU, slowly"
        )
    check_same_device(**tensors)


def check_dtype(**tensors: Tensor) -> None:
    """The first tensor is in a dtype that kernels have."""
    name, first = next(iter(tensors.items()))
    if first.dtype not in KERNEL_DTYPES:
        raise LongAtlasError(
            f"{name} has dtype {first.dtype}; impl='triton' takes {', '.join(map(str, KERNEL_DTYPES))}; "
            "convert it or choose impl='torch'"
        )


def check_head_size(**sizes: int) -> None:
    """By name ("D of q and k"), each a multiple of 16 up to 256."""
    for name, size in sizes.items():
        if not fits(size):
            raise LongAtlasError(
                f"{name} is {size}; impl='triton' takes multiples of {HEAD_STEP} up to {LARGEST_HEAD}; "
                "pad the heads with zeros or choose impl='torch'"
            )


def check_contiguous(**tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if not tensor.is_contiguous():
            raise LongAtlasError(
                f"{name} has shape {list(tensor.shape)} and strides {list(tensor.stride())}; impl='triton' needs it "
                f"contiguous: pass {name}.contiguous()"
            )


def is_interpreting() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")
