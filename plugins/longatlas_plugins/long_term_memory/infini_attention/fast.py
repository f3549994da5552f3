"""Infini-attention, fast (arXiv:2404.07143): batches of segments, their memories by a cumulative sum."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from longatlas.ops import blockwise_attention
from longatlas.slots import Rotate
from longatlas_plugins.long_term_memory.infini_attention.state import NORMALISER_FLOOR, InfiniState, at_border

# Tokens worked on at once by the linear rule: enough to feed the device, few enough to stay in its cache.
GROUP_TOKENS = {"cpu": 2048, "cuda": 65536}


class Rule(NamedTuple):
    """The settings that all segments share; share: sigmoid of the gate [H, 1, 1], in the state's dtype."""

    segment_len: int
    update: str
    first_segment: str
    rotate: Rotate | None
    share: Tensor


def infini_attention_torch(
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
    share = torch.sigmoid(gate.to(state.memory.dtype))[:, None, None]
    rule = Rule(segment_len, update, first_segment, rotate, share)
    outputs, here = [], 0
    while here < q.shape[1]:
        segments, tokens = _next_piece(rule, state, q.shape[1] - here)
        piece = slice(here, here + tokens)
        o, state = _advance(q[:, piece], k[:, piece], v[:, piece], state, rule, segments)
        outputs.append(o)
        here += tokens
    if not outputs:
        return v.new_zeros(*q.shape[:3], v.shape[3]), state
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1), state


def _next_piece(rule: Rule, state: InfiniState, left: int) -> tuple[int, int]:
    """How many segments to take next, and how many tokens: whole segments, or a part of one."""
    begun = state.position % rule.segment_len
    if begun or left < rule.segment_len:
        return 1, min(rule.segment_len - begun, left)
    if state.position == 0 or rule.update == "delta":
        return 1, rule.segment_len
    # A segment shorter than D would make the states of a group larger than its tokens.
    longest = max(rule.segment_len, state.norm.shape[2])
    group = GROUP_TOKENS.get(state.norm.device.type, GROUP_TOKENS["cpu"])
    segments = max(1, min(group // longest, left // rule.segment_len))
    return segments, segments * rule.segment_len


def _advance(
    q: Tensor, k: Tensor, v: Tensor, state: InfiniState, rule: Rule, segments: int
) -> tuple[Tensor, InfiniState]:
    """Output of the new tokens, and the state after them; a segment that they complete is folded in."""
    begun = state.position % rule.segment_len
    if begun:
        k, v = torch.cat([state.k, k], 1), torch.cat([state.v, v], 1)
    position = state.position + q.shape[1]
    local = _local(q, k, v, state.position, rule.rotate, segments)  # [B, segments, H, N, E]
    k_split, v_split = _split(k, segments), _split(v, segments)
    if position % rule.segment_len:
        memories, norms = state.memory[:, None], state.norm[:, None]
        # Copies, because a view would keep the whole call's k and v alive.
        kept = (k, v) if begun else (k.clone(), v.clone())
        after = InfiniState(state.memory, state.norm, *kept, position)
    else:
        memories, norms = _memories(k_split, v_split, state, rule)
        after = at_border(memories[:, -1].clone(), norms[:, -1].clone(), k, v, position)
    if state.position >= rule.segment_len:
        groups = q.shape[2] // k.shape[2]
        memories = memories[:, :segments].repeat_interleave(groups, 2)
        norms = norms[:, :segments].repeat_interleave(groups, 2)
        read = _retrieve(_sigma(_split(q, segments), rule), memories, norms)
        local = torch.lerp(local.to(read.dtype), read, rule.share)  # eq (6)
    elif rule.first_segment == "gated":
        local = (1 - rule.share) * local
    return local.transpose(2, 3).flatten(1, 2).to(v.dtype), after


def _split(x: Tensor, segments: int) -> Tensor:
    """[B, segments * N, H, D] -> [B, segments, H, N, D]"""
    batch, tokens, *rest = x.shape
    return x.reshape(batch, segments, tokens // segments, *rest).transpose(2, 3)


def _sigma(x: Tensor, rule: Rule) -> Tensor:
    """ELU(x) + 1 in the state's dtype, without the cancellation of elu(x) + 1 for x far below 0."""
    x = x.to(rule.share.dtype)
    positive = x.relu()
    return positive + (x - positive).exp_()


def _local(q: Tensor, k: Tensor, v: Tensor, position: int, rotate: Rotate | None, segments: int) -> Tensor:
    """Causal softmax attention inside each segment (eq 2); k, v may begin before q."""
    begun = k.shape[1] - q.shape[1]
    if rotate is not None:
        places = torch.arange(position - begun, position + q.shape[1], device=q.device)
        if begun:
            q, k = rotate(q, q, places[begun:])[0], rotate(k, k, places)[1]
        else:
            q, k = rotate(q, k, places)
    if begun and q.shape[1] > 1:
        return blockwise_attention(q, k, v).transpose(1, 2)[:, None]
    groups = q.shape[2] // k.shape[2]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 2), v.repeat_interleave(groups, 2)
    q, k, v = (_split(x, segments).flatten(0, 1) for x in (q, k, v))
    o = functional.scaled_dot_product_attention(q, k, v, is_causal=not begun)
    return o.reshape(o.shape[0] // segments, segments, *o.shape[1:])


def _retrieve(features: Tensor, memory: Tensor, norm: Tensor) -> Tensor:
    """σ(x) M / (σ(x) z) (eq 3); features [..., N, D], memory [..., D, E], norm [..., D]."""
    normaliser = features @ norm[..., None]
    return (features @ memory) / torch.where(normaliser > NORMALISER_FLOOR, normaliser, 1.0)


def _memories(k: Tensor, v: Tensor, state: InfiniState, rule: Rule) -> tuple[Tensor, Tensor]:
    """M and z before each of the whole segments k, v [B, segments, Hkv, N, D|E], and after the last."""
    features = _sigma(k, rule)
    memory, norm = state.memory[:, None], state.norm[:, None]
    v = v.to(features.dtype)
    if rule.update == "delta" and state.position >= rule.segment_len:
        v = v - _retrieve(features, memory, norm)  # eq (5)
    memories = torch.cat([memory, features.transpose(3, 4) @ v], 1)
    norms = torch.cat([norm, features.sum(3)], 1)
    return memories.cumsum(1), norms.cumsum(1)  # eq (4)
