"""Position Interpolation (arXiv:2306.15595): squeezes a longer text into the trained range."""

from typing import Any

from longatlas import Cost, Method, Option, Position
from longatlas.flops import causal_softmax, growing_cache


def interpolated_rope(config: Any, *, factor: float, impl: str = "auto") -> Position:
    """Rotary embedding with every position divided by `factor`."""
    if impl == "reference":
        from longatlas.ops import frequencies_of
        from longatlas_plugins.extrapolative_pes.position_interpolation.reference import interpolated_rotation

        return Position(rotate=interpolated_rotation(frequencies_of(config).tolist(), factor=factor))
    # section 2.3: f'(x, m) = f(x, m L / L'), and m / s times θ is m times θ / s
    return Position(frequencies=lambda theta, train_length: (theta / factor, 1.0))


METHOD = Method(
    name="position_interpolation",
    title="Position Interpolation",
    family="extrapolative_pes/extended_rope/scaling",
    paper="2306.15595",
    summary="Divides rotary positions by a factor, so that a longer text stays within the trained angles.",
    fills={"position": interpolated_rope},
    options=(Option("factor", 4.0, "how many times longer than in training a text may be", min=1.0),),
    cost=Cost(time="T^2", state="T"),
    flops=causal_softmax,
    state_size=growing_cache,
    impls=("torch", "reference"),
    training="retrofit",
    deviations="Put in without the short fine-tuning that the paper adds.",
    source="Checked against complex rotation by m/s in fp64, against plain rotary embedding at factor 1, and "
    "against the formula of Hugging Face transformers.",
    equations=(
        r"f'(x, m) = f\left(x, \tfrac{m}{s}\right), \quad s = L' / L",
        r"f(x, m)_i = x_i\, e^{\mathrm{i} m \theta_i}, \quad \theta_i = b^{-2i/D}",
    ),
)
