"""Infini-attention straight from the equations (arXiv:2404.07143): a loop over segments and tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from longatlas.slots import Rotate
from longatlas_plugins.long_term_memory.infini_attention.state import NORMALISER_FLOOR, InfiniState


def infini_attention_reference(
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
    """q [B, T, H, D]; k, v [B, T, Hkv, D|E]; gate [H] -> o [B, T, H, E] and the state."""
    wide = torch.promote_types(q.dtype, torch.float32)
    keys, values = torch.cat([state.k, k], 1), torch.cat([state.v, v], 1)
    begun = state.k.shape[1]
    q_wide, k_wide, v_wide = q.to(wide), keys.to(wide), values.to(wide)
    q_local, k_local = _rotated(q_wide, k_wide, rotate, state.position - begun, begun)
    heads, kv_heads = q.shape[2], k.shape[2]
    group = [head // (heads // kv_heads) for head in range(heads)]
    g = torch.sigmoid(gate.to(wide))[:, None]  # [H, 1]
    memory, norm = state.memory, state.norm
    outputs, first = [], 0
    for t in range(begun, keys.shape[1]):
        place, new, seen = state.position - begun + t, t - begun, slice(first, t + 1)
        o = _local_attention(q_local[:, new], k_local[:, seen, group], v_wide[:, seen, group])
        if place >= segment_len:
            read = _retrieve(q_wide[:, new], memory[:, group], norm[:, group])
            o = g * read + (1 - g) * o  # eq (6)
        elif first_segment == "gated":
            o = (1 - g) * o
        outputs.append(o)
        if (place + 1) % segment_len == 0:
            segment = slice(first, t + 1)
            delta = update == "delta" and place >= segment_len
            memory, norm = _write(k_wide[:, segment], v_wide[:, segment], memory, norm, delta)
            first = t + 1
    o = torch.stack(outputs, 1) if outputs else q_wide.new_zeros(*q.shape[:3], v.shape[3])
    return o.to(v.dtype), InfiniState(memory, norm, keys[:, first:], values[:, first:], state.position + q.shape[1])


def _sigma(x: Tensor) -> Tensor:
    """ELU(x) + 1, without the cancellation of elu(x) + 1 for x far below 0."""
    return torch.where(x > 0, x + 1, torch.exp(x.clamp(max=0)))


def _rotated(q: Tensor, k: Tensor, rotate: Rotate | None, start: int, begun: int) -> tuple[Tensor, Tensor]:
    """q and k at their absolute positions; k begins at `start`, q `begun` tokens later."""
    if rotate is None:
        return q, k
    positions = torch.arange(start, start + k.shape[1], device=k.device)
    return rotate(q, q, positions[begun:])[0], rotate(k, k, positions)[1]


def _local_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One query [B, H, D] against the tokens of its segment so far, k, v [B, S, H, D|E]."""
    scores = torch.einsum("bhd,bshd->bhs", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("bhs,bshe->bhe", torch.softmax(scores, -1), v)  # eq (2)


def _retrieve(x: Tensor, memory: Tensor, norm: Tensor) -> Tensor:
    """σ(x) M / (σ(x) z) for one token x [B, H, D]."""
    features = _sigma(x)
    normaliser = torch.einsum("bhd,bhd->bh", features, norm)[..., None]
    total = torch.einsum("bhd,bhde->bhe", features, memory)
    return total / torch.where(normaliser > NORMALISER_FLOOR, normaliser, 1.0)  # eq (3)


def _write(k: Tensor, v: Tensor, memory: Tensor, norm: Tensor, delta: bool) -> tuple[Tensor, Tensor]:
    """Fold one whole segment k, v [B, N, Hkv, D|E] in; delta reads M as it was before."""
    written, written_norm = memory, norm
    for t in range(k.shape[1]):
        value = v[:, t] - _retrieve(k[:, t], memory, norm) if delta else v[:, t]
        features = _sigma(k[:, t])
        written = written + torch.einsum("bhd,bhe->bhde", features, value)  # eq (4), eq (5)
        written_norm = written_norm + features  # eq (4)
    return written, written_norm
