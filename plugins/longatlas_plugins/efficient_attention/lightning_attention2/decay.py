"""Fixed decay rates per head: Lightning Attention-2 (arXiv:2401.04658), TransNormerLLM (arXiv:2307.14995)."""

from __future__ import annotations

import torch
from torch import Tensor

from longatlas import LongAtlasError

KINDS = ("official", "transnormer")


def decay_slopes(n_heads: int, layer: int, n_layers: int, *, kind: str = "official") -> Tensor:
    """Decay rates [H] in fp32 of one layer: head h keeps the part λ = exp(-rate) of its state at each token.

    official     2^(-8(h+1)/H) * (1 - l/(L-1) + 1e-5), as in the authors' code; for H not a power of two the
                 slopes of the next smaller power, then every second one of twice that power. At L = 1 the
                 factor is that of l = 0.
    transnormer  8h/H * (1 - l/L), as in the TransNormerLLM paper: head 0 never forgets.

    Raises LongAtlasError for an unknown kind, n_heads below 1, or a layer that is not in 0 ... n_layers - 1.
    """
    if kind not in KINDS:
        raise LongAtlasError(f"kind is {kind!r}; it must be one of {', '.join(KINDS)}")
    if n_heads < 1:
        raise LongAtlasError(f"n_heads is {n_heads}; it must be at least 1")
    if not 0 <= layer < n_layers:
        raise LongAtlasError(f"layer is {layer}; it must be in 0 ... n_layers - 1 = {n_layers - 1}")
    if kind == "transnormer":
        rates = [8 * h / n_heads * (1 - layer / n_layers) for h in range(n_heads)]
    else:
        depth = 1 - layer / max(n_layers - 1, 1) + 1e-5
        rates = [slope * depth for slope in _alibi_slopes(n_heads)]
    return torch.tensor(rates, dtype=torch.float32)


def _alibi_slopes(n_heads: int) -> list[float]:
    """2^(-8(h+1)/H) (arXiv:2108.12409, section 3), with its authors' rule for H not a power of two."""
    power = 1 << (n_heads.bit_length() - 1)
    slopes = [2.0 ** (-8 * (h + 1) / power) for h in range(power)]
    between = [2.0 ** (-4 * (h + 1) / power) for h in range(0, 2 * power, 2)]
    return slopes + between[: n_heads - power]
