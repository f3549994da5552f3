"""YaRN (arXiv:2309.00071): NTK-by-parts frequencies (section 3.2) and attention temperature (section 3.4)."""

from __future__ import annotations

import math

from torch import Tensor

from longatlas import LongAtlasError


def yarn_frequencies(
    theta: Tensor, train_length: int, *, factor: float, alpha: float = 1.0, beta: float = 32.0
) -> Tensor:
    """θ' [D/2] in radians per token, fp64: θ/s below `alpha` rotations in training, θ above `beta`.

    Between the two a ramp that is linear in rotations. theta is θ [D/2], train_length L in tokens. Raises
    LongAtlasError unless factor >= 1 and 0 <= alpha < beta.
    """
    check_bounds(factor, alpha, beta)
    rotations = train_length * theta / (2 * math.pi)  # [D/2]
    kept = ((rotations - alpha) / (beta - alpha)).clamp(0.0, 1.0)
    # (1 - γ) θ / s + γ θ, ordered so that s = 1 gives θ to the last bit
    return theta * (1 / factor + kept * (1 - 1 / factor))


def yarn_magnitude(factor: float) -> float:
    """sqrt(1/t) = 0.1 ln(s) + 1 (section 3.4): the factor on q and on k."""
    return 0.1 * math.log(factor) + 1.0


def check_bounds(factor: float, alpha: float, beta: float) -> None:
    """Raise LongAtlasError unless factor >= 1 and 0 <= alpha < beta."""
    if factor < 1:
        raise LongAtlasError(f"factor is {factor}; it must be at least 1")
    if not 0 <= alpha < beta:
        raise LongAtlasError(f"alpha is {alpha} and beta {beta}; alpha must be at least 0 and below beta")
