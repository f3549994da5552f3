"""Position Interpolation (arXiv:2306.15595, section 2.3) with complex numbers and loops, in fp64."""

from __future__ import annotations

from collections.abc import Sequence

from longatlas.slots import Rotate
from longatlas_plugins.extrapolative_pes._complex_rotation import complex_rotation


def interpolated_rotation(theta: Sequence[float], *, factor: float) -> Rotate:
    """rotate(q, k, pos): pair i at position m turns by (m / factor) θ_i."""

    def angle(position: int, i: int) -> float:
        return position / factor * theta[i]

    return complex_rotation(angle, len(theta))
