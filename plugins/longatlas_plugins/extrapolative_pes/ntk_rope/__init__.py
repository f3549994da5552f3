"""NTK-aware scaled RoPE (bloc97, 2023): a larger rotary base instead of smaller positions."""

from typing import Any

from longatlas import Cost, Method, Option, Position
from longatlas.flops import causal_softmax, growing_cache
from longatlas.lazy import lazy_exports


def ntk_aware_rope(config: Any, *, factor: float, impl: str = "auto") -> Position:
    """Rotary embedding with the base b * factor^(D/(D-2))."""
    if impl == "reference":
        from longatlas.ops import frequencies_of
        from longatlas_plugins.extrapolative_pes.ntk_rope.reference import ntk_rotation

        return Position(rotate=ntk_rotation(frequencies_of(config).tolist(), factor=factor))
    from longatlas_plugins.extrapolative_pes.ntk_rope.fast import ntk_frequencies

    return Position(frequencies=lambda theta, train_length: (ntk_frequencies(theta, factor=factor), 1.0))


METHOD = Method(
    name="ntk_rope",
    title="NTK-RoPE",
    family="extrapolative_pes/extended_rope/scaling",
    paper="https://www.reddit.com/r/LocalLLaMA/comments/14lz7j5/ntkaware_scaled_rope_allows_llama_models_to_have/",
    summary="Enlarges the rotary base: the slowest dimension is stretched by the factor, the fastest kept.",
    fills={"position": ntk_aware_rope},
    options=(Option("factor", 4.0, "how many times the slowest wavelength is stretched", min=1.0),),
    cost=Cost(time="T^2", state="T"),
    flops=causal_softmax,
    state_size=growing_cache,
    impls=("torch", "reference"),
    training="retrofit",
    deviations="The factor is fixed; the dynamic variant, which follows the length read so far, is another method.",
    source="Checked against complex rotation in fp64: the first frequency unchanged, the last one divided by "
    "exactly the factor; plain rotary embedding at factor 1; and the formula of Hugging Face transformers.",
    equations=(r"\theta_i = b'^{-2i/D}, \quad b' = b\, s^{D/(D-2)}",),
)

__getattr__ = lazy_exports(__name__, {"ntk_frequencies": ".fast"})
