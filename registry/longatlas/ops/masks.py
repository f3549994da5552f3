"""Evaluates FlexAttention-style mask_mods and score_mods on ranges of positions."""

from __future__ import annotations

import torch
from torch import Tensor

from longatlas.slots import MaskMod


def indices(q_positions: Tensor, k_positions: Tensor, batch: int, heads: int) -> tuple[Tensor, ...]:
    """b, h, q_idx, kv_idx, shaped so that they broadcast to [B, H, T, S]."""
    device = q_positions.device
    return (
        torch.arange(batch, device=device).view(-1, 1, 1, 1),
        torch.arange(heads, device=device).view(1, -1, 1, 1),
        q_positions.view(1, 1, -1, 1),
        k_positions.view(1, 1, 1, -1),
    )


def visible(mask_mod: MaskMod | None, q_positions: Tensor, k_positions: Tensor, batch: int, heads: int) -> Tensor:
    """Which keys each query sees, causality included: bool [B or 1, H or 1, T, S].

    The first two dimensions are 1 where the mask does not depend on batch or head.
    """
    b, h, q_idx, kv_idx = indices(q_positions, k_positions, batch, heads)
    seen = kv_idx <= q_idx
    return seen if mask_mod is None else seen & mask_mod(b, h, q_idx, kv_idx)
