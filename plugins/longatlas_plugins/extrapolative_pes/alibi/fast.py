"""ALiBi (arXiv:2108.12409): slopes in fp64, and the score_mod that uses them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from longatlas import LongAtlasError


def alibi_slopes(n_heads: int) -> Tensor:
    """m_h = 2^(-8(h+1)/H) for h = 0 ... H-1, in fp64 [H] (section 3).

    Where H is no power of two, the slopes of the next smaller power of two come first, then every other slope
    of twice that number of heads, as many as are missing (the authors' code). LongAtlasError for H < 1.
    """
    if n_heads < 1:
        raise LongAtlasError(f"n_heads is {n_heads}; give at least 1")
    power = 1 << (n_heads.bit_length() - 1)
    between = _geometric(2 * power)[0::2]
    return torch.cat([_geometric(power), between[: n_heads - power]])


def _geometric(count: int) -> Tensor:
    return 2.0 ** (-8.0 / count * torch.arange(1, count + 1, dtype=torch.float64))


class LinearBias(nn.Module):
    """Holds the slopes, so that they move with the decoder; they stay in fp64 whatever dtype it takes."""

    slopes: Tensor

    def __init__(self, n_heads: int) -> None:
        super().__init__()
        self.register_buffer("slopes", alibi_slopes(n_heads), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LinearBias:
        slopes = self.slopes
        super()._apply(fn, recurse)
        self.slopes = slopes.to(self.slopes.device)
        return self

    def score_mod(self, score: Tensor, b: Any, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        """score - m_h * distance; any shapes that broadcast."""
        return score + self.slopes.to(score.dtype)[h] * (kv_idx - q_idx)

    score_mod.additive = True  # type: ignore[attr-defined]  # lets blockwise_attention run it as a bias
