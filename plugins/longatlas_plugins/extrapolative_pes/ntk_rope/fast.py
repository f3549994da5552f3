"""NTK-aware scaled RoPE (bloc97, 2023; as written down in arXiv:2309.00071, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from longatlas import LongAtlasError


def ntk_frequencies(theta: Tensor, *, factor: float) -> Tensor:
    """θ'_i = θ_i s^(-2i/(D-2)) [D/2], fp64: those of the base b' = b s^(D/(D-2)), for angles of any base.

    theta  θ [D/2], radians per token

    Raises LongAtlasError for fewer than two pairs, where the first is also the last, and for factor <= 0.
    """
    pairs = len(theta)
    if pairs < 2:
        raise LongAtlasError(f"rotary embedding turns {pairs} pair; the NTK-aware base needs at least 2 (head_size 4)")
    if factor <= 0:
        raise LongAtlasError(f"factor is {factor}; it must be above 0")
    place = torch.arange(pairs, dtype=torch.float64, device=theta.device)
    return theta * factor ** (-place / (pairs - 1))
