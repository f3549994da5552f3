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
    """score_mod(score [B, H, T, S], b, h, q_idx, kv_idx) -> score, for all heads at once, in their order."""

    def score_mod(score: Tensor, b: Any, h: Any, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        distance = (q_idx - kv_idx)[0, 0].to(score.dtype)  # [T, S]
        biases = [-slope * distance for slope in slopes(n_heads)]
        return score + torch.stack(biases)

    return score_mod
