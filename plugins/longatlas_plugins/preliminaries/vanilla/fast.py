"""Standard attention with the score matrix in memory (arXiv:1706.03762, eq. 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from longatlas import Where
from longatlas.ops.masks import indices, visible
from longatlas.ops.merging import masked_softmax


def attend(q: Tensor, k: Tensor, v: Tensor, where: Where) -> Tensor:
    """q [B, T, H, D]; k [B, S, H, D]; v [B, S, H, E]; o [B, T, H, E]; allocates [B, H, T, S]."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # [B, H, T, D]
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)  # [B, H, T, S]
    if where.score_mod is not None:
        scores = where.score_mod(scores, *indices(where.q_positions, where.k_positions, *q.shape[:2]))
    if q.shape[2] == 1 and not where.differs_by_row:
        return (torch.softmax(scores, -1) @ v).transpose(1, 2)  # eq (1)
    seen = visible(None, where.q_positions, where.k_positions, 1, 1, where.visible)
    if where.visible is not None:  # a query may see nothing then
        return (masked_softmax(scores, seen) @ v).transpose(1, 2)
    return (torch.softmax(scores.masked_fill(~seen, float("-inf")), -1) @ v).transpose(1, 2)
