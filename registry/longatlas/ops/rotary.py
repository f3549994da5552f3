"""Rotary position embedding (arXiv:2104.09864), with the frequencies open to position-scaling methods."""

from __future__ import annotations

import torch
from torch import Tensor

from longatlas.slots import Rotate


def rotary_frequencies(head_size: int, base: float = 10000.0) -> Tensor:
    """θ_i = base^(-2i/D) for i = 0 ... D/2-1, in fp64 [D/2] (eq. 15)."""
    return base ** (-torch.arange(0, head_size, 2, dtype=torch.float64) / head_size)


def rotary_embedding(
    head_size: int, *, frequencies: Tensor | None = None, position_scale: float = 1.0, magnitude: float = 1.0
) -> Rotate:
    """Return rotate(q, k, pos): dimension i is paired with i + D/2 and turned by pos * position_scale * θ_i.

    frequencies     θ [D/2], radians per token; None = the paper's
    position_scale  multiplies positions (position interpolation uses less than 1)
    magnitude       factor on q and on k (YaRN's attention temperature)
    """
    theta = rotary_frequencies(head_size) if frequencies is None else frequencies.double()

    def rotate(q: Tensor, k: Tensor, pos: Tensor) -> tuple[Tensor, Tensor]:
        # Angles in fp64: fp32 products lose the fast dimensions beyond 10^6 tokens.
        angle = (pos.double() * position_scale)[:, None] * theta.to(pos.device)
        dtype = torch.promote_types(q.dtype, torch.float32)
        cos, sin = (magnitude * angle.cos()).to(dtype), (magnitude * angle.sin()).to(dtype)
        turned = _turn(q, cos, sin)
        return turned, turned if k is q else _turn(k, cos, sin)

    return rotate


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.to(cos.dtype).chunk(2, dim=-1)  # [B, T, H, D/2]
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)
