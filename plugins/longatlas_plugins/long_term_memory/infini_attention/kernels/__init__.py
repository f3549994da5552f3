"""Infini-attention in Triton (arXiv:2404.07143): segments side by side, their memories by a running sum."""

from __future__ import annotations

import torch
from torch import Tensor

from longatlas.slots import Rotate
from longatlas_plugins.long_term_memory.infini_attention.kernels.autograd import infini_forward
from longatlas_plugins.long_term_memory.infini_attention.state import InfiniState

__all__ = ["infini_attention_triton"]


def infini_attention_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor,
    *,
    segment_len: int,
    rotate: Rotate | None,
    update: str,
    first_segment: str,
    state: InfiniState,
) -> tuple[Tensor, InfiniState]:
    """q [B, T, H, D]; k, v [B, T, Hkv, D|E]; gate [H] -> o [B, T, H, E] and the state; once differentiable."""
    begun = state.k.shape[1]
    if begun:
        k, v = torch.cat([state.k, k], 1), torch.cat([state.v, v], 1)
    q_local, k_local = q, k
    if rotate is not None and q.shape[1]:
        places = torch.arange(state.position - begun, state.position + q.shape[1], device=q.device)
        q_local, k_local = rotate(q, q, places[begun:])[0].contiguous(), rotate(k, k, places)[1].contiguous()
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v, gate, state.memory, state.norm))
    o, memory, norm, *_ = infini_forward(
        q_local,
        k_local,
        v,
        q,
        k,
        gate,
        state.memory,
        state.norm,
        segment_len,
        state.position,
        update == "delta",
        first_segment == "gated",
        keep,
    )
    rest = k.shape[1] % segment_len
    # Copies, because a view would keep the whole call's k and v alive.
    kept = (x[:, x.shape[1] - rest :].clone() for x in (k, v))
    return o, InfiniState(memory, norm, *kept, state.position + q.shape[1])
