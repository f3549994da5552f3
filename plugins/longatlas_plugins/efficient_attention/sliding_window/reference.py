"""Sliding-window attention, one query after the other (arXiv:2004.05150, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from longatlas import Where


def windowed_attention(q: Tensor, k: Tensor, v: Tensor, where: Where, window: int) -> Tensor:
    """q [B, T, H, D]; k [B, S, H, D]; v [B, S, H, E]; o [B, T, H, E]."""
    outputs = []
    for i, place in enumerate(where.q_positions.tolist()):
        near = (where.k_positions <= place) & (where.k_positions > place - window)
        scores = torch.einsum("bhd,bshd->bhs", q[:, i], k[:, near]) * q.shape[-1] ** -0.5
        if where.score_mod is not None:
            b, h = torch.arange(q.shape[0])[:, None, None], torch.arange(q.shape[2])[None, :, None]
            scores = where.score_mod(scores, b, h, torch.tensor(place), where.k_positions[near])
        outputs.append(torch.einsum("bhs,bshe->bhe", torch.softmax(scores, -1), v[:, near]))
    return torch.stack(outputs, 1)
