"""Checks of lightning_attention's arguments: each error names the argument, what came and what is allowed."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from longatlas import LongAtlasError
from longatlas.kernels import check_contiguous, check_device, check_dtype, check_head_size
from longatlas.ops.arguments import check_dtypes, check_qkv, check_same_device, check_shape, check_state_dtype

INTEGERS = (torch.int32, torch.int64)

_checked: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def check_arguments(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, initial_state: Tensor | None, sequences: int | None
) -> None:
    """`sequences` is the number of packed sequences, None without cu_seqlens. Raises LongAtlasError."""
    check_qkv(q, k, v)
    check_shape("decay", decay, "H", q.shape[2:3])
    tensors = {"k": k, "v": v, "decay": decay}
    if initial_state is not None:
        tensors["initial_state"] = initial_state
        rows, symbols = (q.shape[0], "B H D E") if sequences is None else (sequences, "n H D E")
        check_shape("initial_state", initial_state, symbols, (rows, *q.shape[2:], v.shape[3]))
        check_state_dtype("initial_state", initial_state, q)
    check_same_device(q=q, **tensors)
    check_dtypes(q=q, k=k, v=v)


def check_rates(decay: Tensor) -> None:
    """Every rate is finite and at least 0. Raises LongAtlasError.

    A tensor is looked at once for as long as nothing is written to it: reading values makes a GPU wait.
    """
    version = None if decay.is_inference() else decay._version
    if version is not None and _checked.get(decay) == version:
        return
    if not bool(torch.isfinite(decay).all() & (decay >= 0).all()):
        raise LongAtlasError(f"decay is {decay.tolist()}; every rate must be finite and at least 0")
    if version is not None:
        _checked[decay] = version


def count_sequences(cu_seqlens: Tensor, q: Tensor) -> int:
    """n of cu_seqlens [n+1], from its shape alone. Raises LongAtlasError."""
    if q.ndim != 4 or q.shape[0] != 1:
        raise LongAtlasError(f"q has shape {list(q.shape)}; with cu_seqlens it must be [1, T, H, D]")
    if cu_seqlens.ndim != 1 or len(cu_seqlens) < 2 or cu_seqlens.dtype not in INTEGERS:
        raise LongAtlasError(
            f"cu_seqlens has shape {list(cu_seqlens.shape)} and dtype {cu_seqlens.dtype}; it must be "
            "[n+1] with n >= 1, int32 or int64"
        )
    return len(cu_seqlens) - 1


def sequence_bounds(cu_seqlens: Tensor, q: Tensor) -> list[int]:
    """cu_seqlens as integers, its values checked; a GPU is waited for. Raises LongAtlasError."""
    bounds: list[int] = cu_seqlens.tolist()
    if bounds != sorted(bounds) or bounds[0] != 0 or bounds[-1] != q.shape[1]:
        raise LongAtlasError(f"cu_seqlens is {bounds}; it must ascend from 0 to the number of tokens, T = {q.shape[1]}")
    return bounds


def check_for_kernels(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, initial_state: Tensor | None) -> None:
    """What impl="triton" asks beyond check_arguments. Raises LongAtlasError."""
    tensors = {"q": q, "k": k, "v": v}
    check_device(**tensors)
    check_dtype(**tensors)
    check_head_size(**{"D of q and k": q.shape[3], "E of v": v.shape[3]})
    check_contiguous(**tensors, **({} if initial_state is None else {"initial_state": initial_state}))
    if decay.requires_grad and torch.is_grad_enabled():
        raise LongAtlasError(
            "decay requires a gradient; impl='triton' gives none, because the paper's rates are fixed: pass "
            "decay.detach() or choose impl='torch'"
        )
