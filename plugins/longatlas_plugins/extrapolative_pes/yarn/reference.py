"""YaRN (arXiv:2309.00071, sections 3.2 and 3.4) with complex numbers and loops, in fp64."""

from __future__ import annotations

import math
from collections.abc import Sequence

from longatlas.slots import Rotate
from longatlas_plugins.extrapolative_pes._complex_rotation import complex_rotation


def yarn_rotation(theta: Sequence[float], train_length: int, *, factor: float, alpha: float, beta: float) -> Rotate:
    """rotate(q, k, pos), pair by pair: the wavelength decides how much of it is interpolated."""

    def angle(position: int, i: int) -> float:
        wavelength = 2 * math.pi / theta[i]
        rotations = train_length / wavelength
        if rotations < alpha:
            ramp = 0.0
        elif rotations > beta:
            ramp = 1.0
        else:
            ramp = (rotations - alpha) / (beta - alpha)
        return position * ((1 - ramp) * theta[i] / factor + ramp * theta[i])

    return complex_rotation(angle, len(theta), magnitude=0.1 * math.log(factor) + 1)
