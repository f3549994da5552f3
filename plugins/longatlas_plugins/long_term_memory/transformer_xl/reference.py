"""Attention with relative positions as the paper writes it (arXiv:1901.02860, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor


def relative_attention(
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
    """The four terms of eq. A^rel, gathered by distance; arguments as in operation.relative_attention."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    out_dtype = q.dtype
    q, k, v, rel_k, content_bias, position_bias = (x.to(dtype) for x in (q, k, v, rel_k, content_bias, position_bias))
    queries, keys = q.shape[1], k.shape[1]
    if queries == 0:
        return q.new_zeros(*q.shape[:3], v.shape[3]).to(out_dtype)
    places = torch.arange(keys, device=q.device)
    distance = places[keys - queries :, None] - places  # [L, K]
    last = min(x for x in (keys - 1, window and window - 1, clamp_len) if x is not None)
    row = distance.clamp(0, last)
    content = torch.einsum("blhd,bkhd->bhlk", q + content_bias, k)  # terms (a) and (c)
    by_row = torch.einsum("blhd,rhd->bhlr", q + position_bias, rel_k[: last + 1])
    position = by_row.gather(3, row.expand(*by_row.shape[:2], -1, -1))  # terms (b) and (d)
    seen = distance >= 0
    if window is not None:
        seen &= distance < window
    scores = ((content + position) * scale).masked_fill(~seen, float("-inf"))
    return torch.einsum("bhlk,bkhe->blhe", scores.softmax(-1), v).to(out_dtype)
