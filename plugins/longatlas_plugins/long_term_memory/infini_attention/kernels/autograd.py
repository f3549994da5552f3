"""Infini-attention for PyTorch: operators that torch.compile and torch.export see through, with gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longatlas_plugins.long_term_memory.infini_attention.kernels.backward import local_backward, read_backward
from longatlas_plugins.long_term_memory.infini_attention.kernels.layout import layout_of
from longatlas_plugins.long_term_memory.infini_attention.kernels.local import local_attention
from longatlas_plugins.long_term_memory.infini_attention.kernels.memory import delta_states, running_sum, segment_sums
from longatlas_plugins.long_term_memory.infini_attention.kernels.writing import correction, write_backward

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op("longatlas::infini_forward", mutates_args=())
def infini_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_raw: Tensor,
    k_raw: Tensor,
    gate: Tensor,
    memory: Tensor,
    norm: Tensor,
    segment_len: int,
    position: int,
    delta: bool,
    gated: bool,
    keep: bool,
) -> Outputs:
    """o, M and z after the last whole segment; for the backward pass M and z before each segment, A_dot, log sums.

    q, q_raw [B, T, H, D]: rotated and as they came; k, k_raw, v [B, begun + T, Hkv, D|E];
    memory, norm: M and z before; position: tokens read before; keep: whether a backward pass will follow
    """
    layout = layout_of(q, k, v, segment_len, position)
    sums, norm_sums = segment_sums(k_raw, None if delta else v, layout, layout.whole)
    norms, norm_after = running_sum(norm_sums, norm, layout.segments)
    if delta:
        states, memory_after = delta_states(k_raw, v, norms, memory, layout)
    else:
        assert sums is not None
        states, memory_after = running_sum(sums, memory, layout.segments)
    o, local, log_sums = local_attention(q, k, v, q_raw, gate, states, norms, layout, gated=gated, keep=keep)
    return o, memory_after, norm_after, states, norms, local, log_sums


@infini_forward.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_raw: Tensor,
    k_raw: Tensor,
    gate: Tensor,
    memory: Tensor,
    norm: Tensor,
    segment_len: int,
    position: int,
    delta: bool,
    gated: bool,
    keep: bool,
) -> Outputs:
    batch, queries, heads, _ = q.shape
    segments = (k.shape[1] + segment_len - 1) // segment_len
    o = v.new_empty(batch, queries, heads, v.shape[3])
    states = memory.new_empty(batch, memory.shape[1], segments, *memory.shape[2:])
    norms = norm.new_empty(batch, norm.shape[1], segments, norm.shape[2])
    local = torch.empty_like(o) if keep else o.new_empty(0)
    log_sums = o.new_empty((batch, heads, queries) if keep else 0, dtype=torch.float32)
    return o, torch.empty_like(memory), torch.empty_like(norm), states, norms, local, log_sums


@torch.library.custom_op("longatlas::infini_backward", mutates_args=())
def infini_backward(
    grad: Tensor,
    grad_memory: Tensor,
    grad_norm: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_raw: Tensor,
    k_raw: Tensor,
    gate: Tensor,
    states: Tensor,
    norms: Tensor,
    local: Tensor,
    log_sums: Tensor,
    segment_len: int,
    position: int,
    delta: bool,
    gated: bool,
) -> Gradients:
    """Gradients of q, k, v, q_raw, k_raw, gate, memory, norm, through every segment (BPTT)."""
    layout = layout_of(q, k, v, segment_len, position)
    grad_q_raw, rows = read_backward(grad, local, q_raw, gate, states, norms, layout, gated=gated)
    reads, norm_reads = segment_sums(
        q_raw, grad, layout, layout.segments, weights=rows.inverses, norm_weights=rows.norms
    )
    assert reads is not None
    if delta:
        grads, grad_memory = delta_states(k_raw, v, norms, grad_memory, layout, parts=reads)
        corrected = correction(k_raw, v, states, norms, grads, layout)
        norm_reads += segment_sums(k_raw, None, layout, layout.segments, norm_weights=corrected.norms)[1]
    else:
        corrected = None
        grads, grad_memory = running_sum(reads, grad_memory, layout.segments, reverse=True)
    norm_grads, grad_norm = running_sum(norm_reads, grad_norm, layout.segments, reverse=True)
    grad_q, grad_k, grad_v = local_backward(q, k, v, grad, gate, log_sums, rows.pulls, layout, gated=gated)
    grad_k_raw, grad_v = write_backward(k_raw, v, corrected, states, norms, grads, norm_grads, grad_v, layout)
    grad_gate = rows.gates.sum((0, 2)).to(gate.dtype)
    return grad_q, grad_k, grad_v, grad_q_raw, grad_k_raw, grad_gate, grad_memory, grad_norm


@infini_backward.register_fake
def _(
    grad: Tensor,
    grad_memory: Tensor,
    grad_norm: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_raw: Tensor,
    k_raw: Tensor,
    gate: Tensor,
    states: Tensor,
    norms: Tensor,
    local: Tensor,
    log_sums: Tensor,
    segment_len: int,
    position: int,
    delta: bool,
    gated: bool,
) -> Gradients:
    made = [torch.empty_like(x) for x in (q, k, v, q_raw, k_raw, gate, grad_memory, grad_norm)]
    return tuple(made)  # type: ignore[return-value]


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
    q, k, v, q_raw, k_raw, gate, _, _, *ctx.settings, _ = inputs
    ctx.save_for_backward(q, k, v, q_raw, k_raw, gate, *output[3:])
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    states, norms, local = saved[6], saved[7], saved[8]
    grad = torch.zeros_like(local) if grads[0] is None else grads[0].contiguous()
    grad_memory = states.new_zeros(_without_segments(states)) if grads[1] is None else grads[1].contiguous()
    grad_norm = norms.new_zeros(_without_segments(norms)) if grads[2] is None else grads[2].contiguous()
    return (*infini_backward(grad, grad_memory, grad_norm, *saved, *ctx.settings), *[None] * 5)


def _without_segments(states: Tensor) -> tuple[int, ...]:
    return (*states.shape[:2], *states.shape[3:])


infini_forward.register_autograd(_gradients, setup_context=_remember)
