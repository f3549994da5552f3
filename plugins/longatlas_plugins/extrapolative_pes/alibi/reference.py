"""ALiBi (arXiv:2108.12409) straight from section 3: slopes as a Python list, each head's bias by itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def slopes(n_heads: int) -> list[float]:
    """The geometric sequence that starts at 2^(-8/H) and uses that value as its ratio."""
    lower = 2 ** math.floor(math.log2(n_heads))
    if lower == n_heads:
        start = 2 ** (-8 / n_heads)
        return [start * start**h for h in range(n_heads)]
    return slopes(lower) + slopes(2 * lower)[0::2][: n_heads - lower]


def alibi_score_mod(n_heads: int) -> Callable[..., Tensor]:
    """score_mod(score, b, h, q_idx, kv_idx) -> score, for shapes that broadcast; the bias is in fp64."""
    slope_of = slopes(n_heads)

    def score_mod(score: Tensor, b: Any, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        slope = torch.empty(h.shape, dtype=torch.float64, device=score.device)
        for head in range(n_heads):
            slope[h == head] = slope_of[head]
        return (score - slope * (q_idx - kv_idx)).to(score.dtype)

    return score_mod
