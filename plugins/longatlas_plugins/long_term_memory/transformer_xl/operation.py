"""Causal attention with relative positions (Transformer-XL, arXiv:1901.02860, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from longatlas import LongAtlasError
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
    check_floats,
    check_qkv,
    check_same_device,
    check_shape,
    check_tensors,
)
from longatlas_plugins.long_term_memory.transformer_xl import fast, reference

IMPLS = {"torch": fast.relative_attention, "reference": reference.relative_attention}


def relative_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_k: Tensor,
    content_bias: Tensor,
    position_bias: Tensor,
    *,
    window: int | None = None,
    clamp_len: int | None = None,
    scale: float | None = None,
    impl: str = "auto",
) -> Tensor:
    """o_i = Σ_j softmax_j(scale * [(q_i + u)·k_j + (q_i + v)·rel_k_δ]) v_j over j <= i + M, δ = i + M - j.

    q              [B, L, H, D]
    k, v           [B, K, H, D], [B, K, H, E]; the M = K - L >= 0 keys of the memory come first
    rel_k          [R, H, D]: row δ is W_R R_δ, for distance δ in tokens; R >= min(K, window, clamp_len + 1)
    content_bias   u [H, D]
    position_bias  v [H, D]
    window         number of keys a query sees, itself included; None = all
    clamp_len      distances beyond it use the row clamp_len; None = no clamping
    scale          defaults to D**-0.5
    impl           "triton" (kernels for a GPU; D and E multiples of 16 up to 256, contiguous q, k, v, no fp64), "torch"
                   (blocks of queries, nothing of size L x K), "reference", or "auto": triton where it takes these
                   tensors, else torch (`chosen_impl` tells)

    Returns o [B, L, H, E] in q's dtype; sums are in fp32, in fp64 for fp64 inputs. Gradients flow to the six
    tensors, once: gradients of gradients only with impl="reference".
    Raises ValueError that names the argument. Source: arXiv:1901.02860, section 3.3 and appendix B.
    """
    check_choice("impl", impl, ("auto", "triton", *IMPLS))
    named = {"q": q, "k": k, "v": v, "rel_k": rel_k, "content_bias": content_bias, "position_bias": position_bias}
    check_tensors(**named)
    check_qkv(q, k, v, keys="K")
    if k.shape[1] < q.shape[1]:
        raise LongAtlasError(
            f"k holds {k.shape[1]} keys for {q.shape[1]} queries; "
            "it must hold the memory and then every query's own key"
        )
    if window is not None and window < 1:
        raise LongAtlasError(f"window is {window}; a query sees at least itself: give 1 or more, or None")
    if clamp_len is not None and clamp_len < 0:
        raise LongAtlasError(f"clamp_len is {clamp_len}; it must be 0 or more, or None for no clamping")
    _check_rows(rel_k, q, k.shape[1], window, clamp_len)
    for name, bias in (("content_bias", content_bias), ("position_bias", position_bias)):
        check_shape(name, bias, "H D", q.shape[2:])
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    tensors = (q, k, v, rel_k, content_bias, position_bias)
    check_dtypes(q=q, k=k, v=v)
    check_floats(rel_k=rel_k, content_bias=content_bias, position_bias=position_bias)
    check_same_device(**named)
    if impl == "auto":
        impl = chosen_impl(q, k, v)
    # Under autocast both score terms would be rounded before they are added.
    with torch.autocast(q.device.type, enabled=False):
        return _operation(impl, q, k, v)(*tensors, window=window, clamp_len=clamp_len, scale=scale)


def chosen_impl(q: Tensor, k: Tensor, v: Tensor) -> str:
    """What impl="auto" stands for with these arguments: "triton" or "torch"."""
    takes = q.is_cuda and not obstacle(q=q, k=k, v=v) and all(x.is_contiguous() for x in (q, k, v))
    return "triton" if takes else "torch"


def _operation(impl: str, q: Tensor, k: Tensor, v: Tensor) -> Callable[..., Tensor]:
    if impl != "triton":
        return IMPLS[impl]
    check_device(q=q, k=k, v=v)
    check_dtype(q=q)
    check_head_size(**{"D of q and k": q.shape[3], "E of v": v.shape[3]})
    check_contiguous(q=q, k=k, v=v)
    from longatlas_plugins.long_term_memory.transformer_xl.kernels import relative_attention_triton

    return relative_attention_triton


def _check_rows(rel_k: Tensor, q: Tensor, keys: int, window: int | None, clamp_len: int | None) -> None:
    check_shape("rel_k", rel_k, "R H D", (None, *q.shape[2:]))
    needed = min(x for x in (keys, window, None if clamp_len is None else clamp_len + 1) if x is not None)
    if q.shape[1] and rel_k.shape[0] < needed:
        raise LongAtlasError(
            f"rel_k has {rel_k.shape[0]} rows; it must have one for each distance from 0 to {needed - 1}: "
            f"{needed} or more"
        )
