"""NTK-aware scaled RoPE (bloc97, 2023) with complex numbers and loops, in fp64."""

from __future__ import annotations

from collections.abc import Sequence

from longatlas.slots import Rotate
from longatlas_plugins.extrapolative_pes._complex_rotation import complex_rotation


def ntk_rotation(theta: Sequence[float], *, factor: float) -> Rotate:
    """rotate(q, k, pos): λ with λ^(D/2 - 1) = factor slows pair i by λ^i, so the last one by `factor`."""
    slower = factor ** (1 / (len(theta) - 1))

    def angle(position: int, i: int) -> float:
        return position * theta[i] / slower**i

    return complex_rotation(angle, len(theta))
