"""Transformer-XL for a few queries (arXiv:1901.02860): the projections are folded into them, not into the memory.

(q + u)·(W_k h_j) = (W_k^T (q + u))·h_j and Σ_j p_j W_v h_j = W_v Σ_j p_j h_j, so that a token costs O(M d H)
instead of the O(M d^2) of projecting its memory; likewise W_R and the sinusoids.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def attend_to_entries(
    q: Tensor,
    entries: Tensor,
    rows: Tensor,
    relative: Tensor,
    content_bias: Tensor,
    position_bias: Tensor,
    *,
    key_value: tuple[Tensor, Tensor] | None,
    kv_heads: int,
    window: int | None,
    clamp_len: int | None,
) -> Tensor:
    """o [B, L, H, D] of q [B, L, H, D], whose own L entries come last.

    entries        [B, K, d_model], or with key_value None [B, K, 2 Hkv D]: keys, then values
    rows           sinusoids R [K or more, d_model]; with clamp_len, clamp_len + 1 are enough
    relative       W_R [H, D, d_model]
    content_bias   u [H, D]; position_bias v [H, D]
    key_value      W_k and W_v, each [Hkv D, d_model]
    """
    out_dtype, dtype = q.dtype, torch.promote_types(q.dtype, torch.float32)
    q, entries, rows, relative = (x.to(dtype) for x in (q, entries, rows, relative))
    q = q.transpose(1, 2) * q.shape[-1] ** -0.5  # [B, H, L, D]
    scale = q.shape[-1] ** -0.5
    content = q + (content_bias * scale).to(dtype)[:, None]
    position = (q + (position_bias * scale).to(dtype)[:, None]) @ relative  # [B, H, L, d_model]
    if key_value is None:
        k, v = _split_heads(entries, kv_heads, q.shape[1])
        scores = content @ k.transpose(2, 3)
    else:
        w_k, w_v = (_head_weights(x.to(dtype), kv_heads, q.shape[1]) for x in key_value)
        scores = _rows_times(content @ w_k, entries.transpose(1, 2))
    weights = (scores + _by_distance(position, rows, scores.shape[3], window, clamp_len)).softmax(-1)
    o = weights @ v if key_value is None else _rows_times(weights, entries) @ w_v.transpose(1, 2)
    return o.transpose(1, 2).to(out_dtype)


def _rows_times(x: Tensor, y: Tensor) -> Tensor:
    """x [B, H, L, n] times y [B, n, m], which all heads share."""
    return (x.flatten(1, 2) @ y).unflatten(1, x.shape[1:3])


def _head_weights(weight: Tensor, kv_heads: int, heads: int) -> Tensor:
    """[Hkv D, d_model] -> [H, D, d_model]"""
    return weight.unflatten(0, (kv_heads, -1)).repeat_interleave(heads // kv_heads, 0)


def _split_heads(entries: Tensor, kv_heads: int, heads: int) -> list[Tensor]:
    """[B, K, 2 Hkv D] -> k, v [B, H, K, D]"""
    both = (x.unflatten(2, (kv_heads, -1)).transpose(1, 2) for x in entries.chunk(2, 2))
    return [x if kv_heads == heads else x.repeat_interleave(heads // kv_heads, 1) for x in both]


def _by_distance(position: Tensor, rows: Tensor, keys: int, window: int | None, clamp_len: int | None) -> Tensor:
    """The positional scores [B, H, L, K] with -inf where a query sees no key; position [B, H, L, d_model]."""
    queries = position.shape[2]
    places = torch.arange(keys, device=position.device)
    distance = places[keys - queries :, None] - places
    last = keys - 1 if clamp_len is None else min(keys - 1, clamp_len)
    by_row = position @ rows[: last + 1].T
    row = distance.clamp(0, last).expand(*position.shape[:2], -1, -1)
    hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
    return by_row.gather(3, row).masked_fill(hidden, -math.inf)
