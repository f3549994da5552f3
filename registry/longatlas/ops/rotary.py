"""Rotary position embedding (arXiv:2104.09864), with the frequencies open to position-scaling methods."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from longatlas.errors import LongAtlasError
from longatlas.slots import Rotate

if TYPE_CHECKING:
    from longatlas.decoder.config import DecoderConfig


def rotary_frequencies(head_size: int, base: float = 10000.0) -> Tensor:
    """θ_i = base^(-2i/D) for i = 0 ... D/2-1, in fp64 [D/2] (eq. 15)."""
    return base ** (-torch.arange(0, head_size, 2, dtype=torch.float64) / head_size)


def frequencies_of(config: DecoderConfig) -> Tensor:
    """θ [D/2 or less] of a decoder's own rotary embedding, radians per token, in fp64."""
    if config.rope_theta:
        return torch.tensor(config.rope_theta, dtype=torch.float64)
    return rotary_frequencies(config.head_size, config.rope_base)


def rotary_embedding(
    head_size: int, *, frequencies: Tensor | None = None, position_scale: float = 1.0, magnitude: float = 1.0
) -> Rotate:
    """Return rotate(q, k, pos): dimension i is paired with i + n of 2n and turned by pos * position_scale * θ_i.

    frequencies     θ [n], radians per token, n <= D/2: what lies beyond 2n is left as it is; None = the paper's, n =
                    D/2
    position_scale  multiplies positions (position interpolation uses less than 1)
    magnitude       factor on the turned part of q and of k (YaRN's attention temperature)

    pos is [T], or [B, T]. Raises LongAtlasError for heads of an odd size.
    """
    if head_size % 2:
        raise LongAtlasError(f"head_size is {head_size}; rotary embedding turns pairs: it must be even")
    theta = rotary_frequencies(head_size) if frequencies is None else frequencies.double()
    turned_size = 2 * len(theta)

    def rotate(q: Tensor, k: Tensor, pos: Tensor) -> tuple[Tensor, Tensor]:
        # Angles in fp64: fp32 products lose the fast dimensions beyond 10^6 tokens.
        angle = (pos.double() * position_scale)[..., None] * theta.to(pos.device)
        dtype = torch.promote_types(q.dtype, torch.float32)
        cos, sin = (magnitude * angle.cos()).to(dtype), (magnitude * angle.sin()).to(dtype)
        turned = _turn(q, cos, sin, turned_size)
        return turned, turned if k is q else _turn(k, cos, sin, turned_size)

    return rotate


def _turn(x: Tensor, cos: Tensor, sin: Tensor, size: int) -> Tensor:
    """x [B, T, H, D]; cos, sin [T, n] or [B, T, n] with 2n = `size` <= D."""
    first, second = x[..., :size].to(cos.dtype).chunk(2, dim=-1)  # [B, T, H, n]
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)
    return turned if size == x.shape[-1] else torch.cat([turned, x[..., size:]], -1)
