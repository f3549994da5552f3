"""The attention of the Memorizing Transformer, query by query (arXiv:2203.08913, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from longatlas.slots import Rotate
from longatlas_plugins.long_term_memory.memorizing_transformer.state import MemorizingState, Rule


def memorizing_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: Tensor,
    gate: Tensor,
    rule: Rule,
    rotate: Rotate | None,
    state: MemorizingState,
) -> tuple[Tensor, MemorizingState]:
    """q [B, T, H, D], k [B, T, Hkv, D] of unit length; v [B, T, Hkv, E]; scale, gate [H]; o [B, T, H, E]."""
    wide = torch.promote_types(q.dtype, torch.float32)
    keys, values = torch.cat([state.k, k], 1), torch.cat([state.v, v], 1)
    begun = state.k.shape[1]
    start = state.position - begun
    q_wide, k_wide, v_wide, s, b = (x.to(wide) for x in (q, keys, values, scale, gate))
    q_local, k_local = _rotated(q_wide, k_wide, rotate, start, begun)
    heads = q.shape[2]
    group = [head // (heads // k.shape[2]) for head in range(heads)]
    memory_k, memory_v = state.memory_k, state.memory_v
    g = torch.sigmoid(b)[:, None]
    outputs = []
    for t in range(begun, keys.shape[1]):
        place = start + t
        seen = slice(_first_seen(place, rule) - start, t + 1)
        o = _attend(q_local[:, t - begun], k_local[:, seen, group], v_wide[:, seen, group], s)
        if memory_k.shape[1]:
            near = _nearest(
                q_wide[:, t - begun],
                memory_k[:, :, group].to(wide),
                memory_v[:, :, group].to(wide),
                rule.top_k,
            )
            o = g * _attend(q_wide[:, t - begun], *near, s) + (1 - g) * o
        outputs.append(o)
        if (place + 1) % rule.segment_len == 0 and rule.memory_size:
            segment = slice(t + 1 - rule.segment_len, t + 1)
            memory_k = torch.cat([memory_k, keys[:, segment].detach()], 1)[:, -rule.memory_size :]
            memory_v = torch.cat([memory_v, values[:, segment].detach()], 1)[:, -rule.memory_size :]
    o = torch.stack(outputs, 1) if outputs else q_wide.new_zeros(*q.shape[:3], v.shape[3])
    end = state.position + q.shape[1]
    kept = keys.shape[1] - rule.cached(end)
    return o.to(v.dtype), MemorizingState(memory_k, memory_v, keys[:, kept:], values[:, kept:], end)


def _first_seen(place: int, rule: Rule) -> int:
    """The first token that the local attention of the query at `place` sees."""
    if rule.xl_cache:
        return max(0, place - rule.segment_len + 1)
    return place - place % rule.segment_len


def _rotated(q: Tensor, k: Tensor, rotate: Rotate | None, start: int, begun: int) -> tuple[Tensor, Tensor]:
    """q and k at their absolute positions; k begins at `start`, q `begun` tokens later."""
    if rotate is None:
        return q, k
    positions = torch.arange(start, start + k.shape[1], device=k.device)
    return rotate(q, q, positions[begun:])[0], rotate(k, k, positions)[1]


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: Tensor) -> Tensor:
    """One query [B, H, D] against k, v [B, S, H, D|E]; scale [H]."""
    weights = torch.softmax(scale[:, None] * torch.einsum("bhd,bshd->bhs", q, k), -1)
    return torch.einsum("bhs,bshe->bhe", weights, v)


def _nearest(q: Tensor, k: Tensor, v: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """For each head the top_k pairs of the memory with the highest dot products, [B, top_k, H, D|E]."""
    order = torch.einsum("bhd,bshd->bsh", q, k).argsort(dim=1, descending=True, stable=True)[:, :top_k]
    return tuple(torch.gather(x, 1, order[..., None].expand(-1, -1, -1, x.shape[3])) for x in (k, v))  # type: ignore[return-value]
