"""The public function infini_attention (arXiv:2404.07143): checks its arguments and chooses the impl."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from longatlas.errors import LongAtlasError
from longatlas.kernels import (
    check_contiguous,
    check_device,
    check_dtype,
    check_head_size,
    obstacle,
)
from longatlas.ops.arguments import (
    check_choice,
    check_dtypes,
    check_positive,
    check_qkv,
    check_same_device,
    check_shape,
    check_state_dtype,
    check_tensors,
)
from longatlas.slots import Rotate
from longatlas_plugins.long_term_memory.infini_attention.fast import infini_attention_torch
from longatlas_plugins.long_term_memory.infini_attention.reference import infini_attention_reference
from longatlas_plugins.long_term_memory.infini_attention.state import InfiniState, empty_state

LARGEST_FP32_DELTA = 128  # D of the kernels' delta rule, which needs all of it at once
IMPLS = {"torch": infini_attention_torch, "reference": infini_attention_reference}


def infini_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor,
    *,
    segment_len: int,
    rotate: Rotate | None = None,
    update: str = "linear",
    first_segment: str = "local",
    initial_state: InfiniState | None = None,
    output_final_state: bool = False,
    impl: str = "auto",
) -> tuple[Tensor, InfiniState | None]:
    """Causal softmax attention inside segments of N tokens, blended with a memory of all segments before.

    q              [B, T, H, D], before rotation
    k, v           [B, T, Hkv, D], [B, T, Hkv, E], before rotation; query head h reads kv head h // (H // Hkv)
    gate           β [H]: the memory's share is sigmoid(β), the local attention's the rest (eq 6)
    segment_len    N, tokens; segments are counted from the start of the sequence, so a remainder comes last
    rotate         rotate(q, k, positions [T]) -> (q, k), for the local attention only; positions are absolute
    update         "linear" (eq 4) or "delta" (eq 5)
    first_segment  output of the first N tokens (their memory is empty): "local" A_dot, "gated" (1 - g) A_dot
    initial_state  InfiniState to continue from; None = start of a sequence
    impl           "triton" (kernels for a GPU; D and E multiples of 16 up to 256, contiguous tensors, no fp64),
                   "torch", "reference", or "auto": triton where it takes these tensors, else torch (see `chosen_impl`)

    Returns o [B, T, H, E] in v's dtype, and the InfiniState after the last token, or None when
    output_final_state is False. Gradients flow to all tensors, those of the initial state included.
    Any T, 0 included. Source: arXiv:2404.07143, section 2.1; the delta rule uses one M for a whole segment.

    Raises LongAtlasError (a ValueError) for shapes and dtypes that do not fit and for names that are not allowed.
    """
    check_choice("update", update, ("linear", "delta"))
    check_choice("first_segment", first_segment, ("local", "gated"))
    check_choice("impl", impl, ("auto", "triton", *IMPLS))
    check_positive(segment_len=segment_len)
    check_tensors(gate=gate)
    check_qkv(q, k, v, grouped=True)
    check_shape("gate", gate, "H", q.shape[2:3])
    check_dtypes(q=q, k=k, v=v)
    state = empty_state(k, v) if initial_state is None else initial_state
    _check_state(state, k, v, segment_len)
    check_same_device(q=q, k=k, v=v, gate=gate, **_state_tensors(state))
    if impl == "auto":
        impl = chosen_impl(q, k, v, update)
    # Under autocast the memory would be summed and kept in 16 bits.
    with torch.autocast(q.device.type, enabled=False):
        o, state = _operation(impl, q, k, v, state, update)(
            q,
            k,
            v,
            gate,
            segment_len=segment_len,
            rotate=rotate,
            update=update,
            first_segment=first_segment,
            state=state,
        )
    return o, state if output_final_state else None


def chosen_impl(q: Tensor, k: Tensor, v: Tensor, update: str = "linear") -> str:
    """What impl="auto" stands for with these arguments: "triton" or "torch"."""
    takes = q.is_cuda and not obstacle(q=q, k=k, v=v) and all(x.is_contiguous() for x in (q, k, v))
    return "triton" if takes and not _is_large_delta(q, update) else "torch"


def _is_large_delta(q: Tensor, update: str) -> bool:
    return update == "delta" and q.dtype == torch.float32 and q.shape[3] > LARGEST_FP32_DELTA


def _operation(
    impl: str, q: Tensor, k: Tensor, v: Tensor, state: InfiniState, update: str
) -> Callable[..., tuple[Tensor, InfiniState]]:
    if impl != "triton":
        return IMPLS[impl]
    check_device(q=q, k=k, v=v)
    check_dtype(q=q)
    check_head_size(**{"D of q and k": q.shape[3], "E of v": v.shape[3]})
    check_contiguous(q=q, k=k, v=v, **_state_tensors(state))
    if _is_large_delta(q, update):
        raise LongAtlasError(
            f"D of q and k is {q.shape[3]} in fp32; with update='delta' impl='triton' takes fp32 heads up to "
            f"{LARGEST_FP32_DELTA}: use bf16 or fp16, or choose impl='torch'"
        )
    from longatlas_plugins.long_term_memory.infini_attention.kernels import infini_attention_triton

    return infini_attention_triton


def _state_tensors(state: InfiniState) -> dict[str, Tensor]:
    return {f"initial_state.{name}": getattr(state, name) for name in ("memory", "norm", "k", "v")}


def _check_state(state: InfiniState, k: Tensor, v: Tensor, segment_len: int) -> None:
    batch, _, heads, size = k.shape
    rest, width = state.position % segment_len, v.shape[3]
    expected: dict[str, tuple[str, tuple[int, ...]]] = {
        "memory": ("B Hkv D E", (batch, heads, size, width)),
        "norm": ("B Hkv D", (batch, heads, size)),
        "k": ("B R Hkv D", (batch, rest, heads, size)),
        "v": ("B R Hkv E", (batch, rest, heads, width)),
    }
    check_tensors(**_state_tensors(state))
    for name, (symbols, sizes) in expected.items():
        tensor, when = getattr(state, name), f"at position {state.position} with segment_len {segment_len}"
        check_state_dtype(f"initial_state.{name}", tensor, k, wide=name in ("memory", "norm"))
        check_shape(f"initial_state.{name}", tensor, symbols, sizes, when)
