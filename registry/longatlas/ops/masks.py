"""Evaluates FlexAttention-style mask_mods and score_mods on ranges of positions."""

from __future__ import annotations

import torch
from torch import Tensor

from longatlas.slots import MaskMod


def indices(q_positions: Tensor, k_positions: Tensor, batch: int, heads: int) -> tuple[Tensor, ...]:
    """b, h, q_idx, kv_idx that broadcast to [B, H, T, S]; positions are [T] and [S], or [B, T] and [B, S]."""
    device = q_positions.device
    queries, keys = q_positions.shape[-1], k_positions.shape[-1]
    return (
        torch.arange(batch, device=device).view(-1, 1, 1, 1),
        torch.arange(heads, device=device).view(1, -1, 1, 1),
        q_positions.view(*q_positions.shape[:-1] or (1,), 1, queries, 1),
        k_positions.view(*k_positions.shape[:-1] or (1,), 1, 1, keys),
    )


def visible(
    mask_mod: MaskMod | None,
    q_positions: Tensor,
    k_positions: Tensor,
    batch: int,
    heads: int,
    shown: Tensor | None = None,
) -> Tensor:
    """Which keys each query sees, causality included: bool [B or 1, H or 1, T, S].

    shown  bool [B or 1, H or 1, S]: keys that there are at all (longatlas.Where.visible)

    The first two dimensions are 1 where nothing depends on batch or head.
    """
    b, h, q_idx, kv_idx = indices(q_positions, k_positions, batch, heads)
    seen = kv_idx <= q_idx
    if mask_mod is not None:
        seen = seen & mask_mod(b, h, q_idx, kv_idx)
    return seen if shown is None else seen & shown[:, :, None]
