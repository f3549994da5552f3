"""Relative attention for PyTorch: operators that torch.compile and torch.export see through, with gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longatlas_plugins.long_term_memory.transformer_xl.kernels.backward import backward
from longatlas_plugins.long_term_memory.transformer_xl.kernels.decode import FEW_QUERIES, decode
from longatlas_plugins.long_term_memory.transformer_xl.kernels.forward import forward
from longatlas_plugins.long_term_memory.transformer_xl.kernels.layout import layout_of

Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def relative_attention_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_k: Tensor,
    content_bias: Tensor,
    position_bias: Tensor,
    *,
    window: int | None,
    clamp_len: int | None,
    scale: float,
) -> Tensor:
    """Arguments as in operation.relative_attention, checked there; once differentiable."""
    queries = [q.float() + bias.float() for bias in (content_bias, position_bias)]
    rel_k = rel_k.to(q.dtype).contiguous()
    trains = torch.is_grad_enabled() and any(x.requires_grad for x in (*queries, k, v, rel_k))
    if q.shape[1] < FEW_QUERIES and not trains:
        out: Tensor = relative_decode(*queries, k, v, rel_k, scale, window, clamp_len)
        return out
    return relative_forward(*(x.to(q.dtype) for x in queries), k, v, rel_k, scale, window, clamp_len)[0]


@torch.library.custom_op("longatlas::relative_decode", mutates_args=())
def relative_decode(
    content_q: Tensor,
    position_q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_k: Tensor,
    scale: float,
    window: int | None,
    clamp_len: int | None,
) -> Tensor:
    """o [B, L, H, E] of a few queries.

    content_q, position_q  q + u, q + v [B, L, H, D], fp32
    k, v                   [B, K, Hkv, D|E]; tokens may lie apart, as in a cache of both
    rel_k                  [R, H, D]
    """
    return decode(content_q, position_q, k, v, rel_k, scale, layout_of(content_q, k, v, window, clamp_len))


@relative_decode.register_fake
def _(
    content_q: Tensor,
    position_q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_k: Tensor,
    scale: float,
    window: int | None,
    clamp_len: int | None,
) -> Tensor:
    return v.new_empty(*content_q.shape[:3], v.shape[3])


@torch.library.custom_op("longatlas::relative_forward", mutates_args=())
def relative_forward(
    content_q: Tensor,
    position_q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_k: Tensor,
    scale: float,
    window: int | None,
    clamp_len: int | None,
) -> tuple[Tensor, Tensor]:
    """o [B, L, H, E], and the logarithms of the sums of weights [B, H, L]; all tensors in one dtype, contiguous."""
    return forward(content_q, position_q, k, v, rel_k, scale, layout_of(content_q, k, v, window, clamp_len))


@relative_forward.register_fake
def _(
    content_q: Tensor,
    position_q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_k: Tensor,
    scale: float,
    window: int | None,
    clamp_len: int | None,
) -> tuple[Tensor, Tensor]:
    batch, queries, heads, _ = content_q.shape
    return v.new_empty(batch, queries, heads, v.shape[3]), v.new_empty(batch, heads, queries, dtype=torch.float32)


@torch.library.custom_op("longatlas::relative_backward", mutates_args=())
def relative_backward(
    grad: Tensor,
    content_q: Tensor,
    position_q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_k: Tensor,
    out: Tensor,
    log_sums: Tensor,
    scale: float,
    window: int | None,
    clamp_len: int | None,
) -> Gradients:
    """Gradients of q + u, q + v, k, v and rel_k."""
    layout = layout_of(content_q, k, v, window, clamp_len)
    if 0 in grad.shape:
        return tuple(torch.zeros_like(x) for x in (content_q, position_q, k, v, rel_k))  # type: ignore[return-value]
    return backward(content_q, position_q, k, v, rel_k, grad, out, log_sums, scale, layout)


@relative_backward.register_fake
def _(
    grad: Tensor,
    content_q: Tensor,
    position_q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_k: Tensor,
    out: Tensor,
    log_sums: Tensor,
    scale: float,
    window: int | None,
    clamp_len: int | None,
) -> Gradients:
    return tuple(torch.empty_like(x) for x in (content_q, position_q, k, v, rel_k))  # type: ignore[return-value]


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.scale, ctx.window, ctx.clamp_len = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 8
    found = relative_backward(grad.contiguous(), *ctx.saved_tensors, ctx.scale, ctx.window, ctx.clamp_len)
    return (*found, None, None, None)


relative_forward.register_autograd(_gradients, setup_context=_remember)
