"""NTK-aware scaled RoPE (bloc97, 2023; as written down in arXiv:2309.00071, section 3.1)."""

from __future__ import annotations

from longatlas import LongAtlasError
from longatlas.ops import rotary_embedding, rotary_frequencies
from longatlas.slots import Rotate


def ntk_base(head_size: int, *, factor: float, base: float = 10000.0) -> float:
    """b' = b * s^(D/(D-2)): the base that stretches the last wavelength by exactly `factor`.

    Raises LongAtlasError for a head size below 4, where the first pair is also the last, and for factor <= 0.
    """
    if head_size < 4 or head_size % 2:
        raise LongAtlasError(f"head_size is {head_size}; the NTK-aware base needs an even one, at least 4")
    if factor <= 0:
        raise LongAtlasError(f"factor is {factor}; it must be above 0")
    return base * factor ** (head_size / (head_size - 2))


def ntk_rotary(head_size: int, *, factor: float, base: float = 10000.0) -> Rotate:
    """rotate(q [B, T, H, D], k [B, T, H, D], pos [T]) with the NTK-aware base; errors as in ntk_base."""
    theta = rotary_frequencies(head_size, ntk_base(head_size, factor=factor, base=base))
    return rotary_embedding(head_size, frequencies=theta)
