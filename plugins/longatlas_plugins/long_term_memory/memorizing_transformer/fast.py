"""The attention of the Memorizing Transformer, a segment at a time (arXiv:2203.08913, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from longatlas.slots import Rotate
from longatlas_plugins.long_term_memory.memorizing_transformer.state import MemorizingState, Rule


def memorizing_attention_torch(
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
    outputs, here = [], 0
    while here < q.shape[1]:
        left_in_segment = rule.segment_len - state.position % rule.segment_len
        piece = slice(here, here + left_in_segment)
        o, state = _advance(q[:, piece], k[:, piece], v[:, piece], scale, gate, rule, rotate, state)
        outputs.append(o)
        here += left_in_segment
    if not outputs:
        return v.new_zeros(*q.shape[:3], v.shape[3]), state
    return torch.cat(outputs, 1), state


def _advance(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: Tensor,
    gate: Tensor,
    rule: Rule,
    rotate: Rotate | None,
    state: MemorizingState,
) -> tuple[Tensor, MemorizingState]:
    """Tokens of one segment: their output, and the state after them."""
    k, v = torch.cat([state.k, k], 1), torch.cat([state.v, v], 1)
    o = _local(q, k, v, scale, rule, rotate, state.position)
    if state.memory_k.shape[1]:
        share = torch.sigmoid(gate.to(torch.promote_types(q.dtype, torch.float32)))[:, None]
        found = _recall(q, state.memory_k, state.memory_v, scale, rule.top_k)
        o = torch.lerp(o.to(found.dtype), found, share)
    return o.to(v.dtype), _after(k, v, rule, state, state.position + q.shape[1])


def _after(k: Tensor, v: Tensor, rule: Rule, state: MemorizingState, position: int) -> MemorizingState:
    memory_k, memory_v = state.memory_k, state.memory_v
    if position % rule.segment_len == 0 and rule.memory_size:
        memory_k = _remember(memory_k, k, rule)
        memory_v = _remember(memory_v, v, rule)
    kept = k.shape[1] - rule.cached(position)
    # Copies, because a view would keep more than the cache alive.
    return MemorizingState(memory_k, memory_v, k[:, kept:].clone(), v[:, kept:].clone(), position)


def _remember(memory: Tensor, cache: Tensor, rule: Rule) -> Tensor:
    """The last memory_size tokens of the memory and the segment that ends the cache, detached."""
    segment = cache[:, -rule.segment_len :].detach()
    return torch.cat([memory, segment], 1)[:, -rule.memory_size :].clone()


def _heads_first(x: Tensor, heads: int) -> Tensor:
    """[B, S, Hkv, D] -> [B, H, S, D]; query head h reads kv head h // (H // Hkv)."""
    return x.repeat_interleave(heads // x.shape[2], 2).transpose(1, 2)


def _local(q: Tensor, k: Tensor, v: Tensor, scale: Tensor, rule: Rule, rotate: Rotate | None, position: int) -> Tensor:
    """Causal attention to the last segment_len tokens, or those of this segment; k, v begin before q."""
    queries, keys = q.shape[1], k.shape[1]
    places = torch.arange(position + queries - keys, position + queries, device=q.device)
    here = places[keys - queries :]
    if rotate is not None:
        q, k = rotate(q, q, here)[0], rotate(k, k, places)[1]
    mask = None
    if queries > 1 and queries < keys:
        mask = places <= here[:, None]
        if rule.xl_cache:
            mask &= places > here[:, None] - rule.segment_len
    o = functional.scaled_dot_product_attention(
        (q * scale.to(q.dtype)[:, None]).transpose(1, 2),
        _heads_first(k, q.shape[2]),
        _heads_first(v, q.shape[2]),
        attn_mask=mask,
        is_causal=queries == keys,
        scale=1.0,
    )
    return o.transpose(1, 2)


def _recall(q: Tensor, memory_k: Tensor, memory_v: Tensor, scale: Tensor, top_k: int) -> Tensor:
    """Attention to the top_k pairs of the memory with the highest dot products, [B, T, H, E]."""
    wide = torch.promote_types(q.dtype, torch.float32)
    keys, values = (_heads_first(x.to(wide), q.shape[2]) for x in (memory_k, memory_v))
    near = (q.to(wide).transpose(1, 2) @ keys.transpose(2, 3)).topk(min(top_k, keys.shape[2]), -1, sorted=False)
    weights = torch.softmax(near.values * scale.to(wide)[:, None, None], -1)  # [B, H, T, top_k]
    # Spread over the whole memory: one matmul instead of a gather of top_k values per query.
    spread = weights.new_zeros(*weights.shape[:3], keys.shape[2]).scatter(3, near.indices, weights)
    return (spread @ values).transpose(1, 2)
