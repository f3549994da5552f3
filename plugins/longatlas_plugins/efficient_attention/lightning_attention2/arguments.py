"""Checks of lightning_attention's arguments: each error names the argument, what came and what is allowed."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from longatlas import LongAtlasError
from longatlas.kernels import check_contiguous, check_device, check_dtype, check_head_size, check_same_device

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
INTEGERS = (torch.int32, torch.int64)

_checked: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def check_arguments(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, initial_state: Tensor | None, sequences: int | None
) -> None:
    """`sequences` is the number of packed sequences, None without cu_seqlens. Raises LongAtlasError."""
    _check_shapes(q, k, v, decay)
    tensors = {"k": k, "v": v, "decay": decay}
    if initial_state is not None:
        tensors["initial_state"] = initial_state
        rows = q.shape[0] if sequences is None else sequences
        _check_state(initial_state, q, [rows, q.shape[2], q.shape[3], v.shape[3]], sequences)
    check_same_device(q=q, **tensors)
    _check_dtypes(q, k, v)


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


def _check_shapes(q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> None:
    if q.ndim != 4:
        raise LongAtlasError(f"q has shape {list(q.shape)}; it must be [B, T, H, D]")
    if k.shape != q.shape:
        raise LongAtlasError(f"k has shape {list(k.shape)}; it must be q's [B, T, H, D] = {list(q.shape)}")
    if v.ndim != 4 or v.shape[:3] != q.shape[:3]:
        rows = ", ".join(str(n) for n in q.shape[:3])
        raise LongAtlasError(f"v has shape {list(v.shape)}; it must be [B, T, H, E] = [{rows}, E]")
    if decay.shape != q.shape[2:3]:
        raise LongAtlasError(f"decay has shape {list(decay.shape)}; it must be [H] = [{q.shape[2]}]")


def _check_state(state: Tensor, q: Tensor, shape: list[int], sequences: int | None) -> None:
    rows = "B" if sequences is None else "n"
    if list(state.shape) != shape:
        raise LongAtlasError(f"initial_state has shape {list(state.shape)}; it must be [{rows}, H, D, E] = {shape}")
    wide = torch.promote_types(q.dtype, torch.float32)
    if state.dtype != wide:
        raise LongAtlasError(f"initial_state has dtype {state.dtype}; with q in {q.dtype} it must be {wide}")


def _check_dtypes(q: Tensor, k: Tensor, v: Tensor) -> None:
    if q.dtype not in DTYPES:
        raise LongAtlasError(f"q has dtype {q.dtype}; it must be one of {', '.join(map(str, DTYPES))}")
    for name, tensor in (("k", k), ("v", v)):
        if tensor.dtype != q.dtype:
            raise LongAtlasError(f"{name} has dtype {tensor.dtype}; it must be q's, {q.dtype}")
