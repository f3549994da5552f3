"""Position Interpolation (arXiv:2306.15595, section 2.3) with complex numbers and loops, in fp64."""

from __future__ import annotations

from longatlas.slots import Rotate
from longatlas_plugins.extrapolative_pes._complex_rotation import complex_rotation


def interpolated_rotation(head_size: int, *, factor: float) -> Rotate:
    """rotate(q, k, pos): pair i at position m turns by (m / factor) / 10000^(2i/D)."""

    def angle(position: int, i: int) -> float:
        return position / factor / 10000.0 ** (2 * i / head_size)

    return complex_rotation(angle)
