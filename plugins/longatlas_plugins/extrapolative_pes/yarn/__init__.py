"""YaRN (arXiv:2309.00071): stretches only the slow rotary dimensions, and sharpens the softmax."""

from typing import Any

from longatlas import Cost, Method, Option, Position
from longatlas.flops import causal_softmax, growing_cache
from longatlas.lazy import lazy_exports


def yarn_rope(config: Any, *, factor: float, alpha: float, beta: float, impl: str = "auto") -> Position:
    """Rotary embedding with the NTK-by-parts frequencies and YaRN's attention temperature."""
    from longatlas_plugins.extrapolative_pes.yarn.fast import check_bounds, yarn_frequencies, yarn_magnitude

    check_bounds(factor, alpha, beta)
    ramp = {"factor": factor, "alpha": alpha, "beta": beta}
    if impl == "reference":
        from longatlas.ops import frequencies_of
        from longatlas_plugins.extrapolative_pes.yarn.reference import yarn_rotation

        return Position(rotate=yarn_rotation(frequencies_of(config).tolist(), config.train_length, **ramp))

    def frequencies(theta: Any, train_length: int) -> Any:
        return yarn_frequencies(theta, train_length, **ramp), yarn_magnitude(factor)

    return Position(frequencies=frequencies)


METHOD = Method(
    name="yarn",
    title="YaRN",
    family="extrapolative_pes/extended_rope/scaling",
    paper="2309.00071",
    summary="Stretches the slow rotary dimensions only, keeps the fast ones, and sharpens attention.",
    fills={"position": yarn_rope},
    options=(
        Option("factor", 4.0, "how many times longer than in training a text may be", min=1.0),
        Option(
            "alpha",
            1.0,
            "dimensions with fewer rotations in training are stretched in full",
            unit="rotations",
            min=0.0,
        ),
        Option("beta", 32.0, "dimensions with more rotations in training are kept", unit="rotations", min=0.0),
    ),
    cost=Cost(time="T^2", state="T"),
    flops=causal_softmax,
    state_size=growing_cache,
    impls=("torch", "reference"),
    training="retrofit",
    deviations="The ramp is the paper's, linear in the number of rotations; the authors' code makes it "
    "linear in the index of the dimension. Put in without the paper's fine-tuning, with a fixed factor.",
    source="Checked against complex rotation in fp64 with the paper's ramp taken dimension by dimension, and "
    "against plain rotary embedding at factor 1; the temperature also against Hugging Face transformers.",
    equations=(
        r"r_i = \frac{L}{\lambda_i} = \frac{L\, b^{-2i/D}}{2\pi}",
        r"\gamma(r) = \min\left(1, \max\left(0, \frac{r - \alpha}{\beta - \alpha}\right)\right)",
        r"\theta'_i = (1 - \gamma(r_i))\, \frac{\theta_i}{s} + \gamma(r_i)\, \theta_i",
        r"\mathrm{softmax}\left(\frac{q \cdot k}{t \sqrt{D}}\right), \quad \sqrt{1/t} = 0.1 \ln s + 1",
    ),
)

__getattr__ = lazy_exports(__name__, {"yarn_frequencies": ".fast", "yarn_magnitude": ".fast"})
