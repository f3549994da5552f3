"""ALiBi (arXiv:2108.12409): scores fall with distance, with a slope fixed for each head."""

from typing import Any

from longatlas import Cost, Method, Position
from longatlas.flops import causal_softmax, growing_cache
from longatlas.lazy import lazy_exports


def alibi_position(config: Any, *, impl: str = "auto") -> Position:
    """The bias as a score_mod, and no other position embedding."""
    if impl == "reference":
        from longatlas_plugins.extrapolative_pes.alibi.reference import alibi_score_mod

        return Position(score_mod=alibi_score_mod(config.n_heads))
    from longatlas_plugins.extrapolative_pes.alibi.fast import LinearBias

    return Position(score_mod=LinearBias(config.n_heads).score_mod)


METHOD = Method(
    name="alibi",
    title="ALiBi",
    family="extrapolative_pes/attention_bias/elaborate",
    paper="2108.12409",
    summary="Subtracts from each score the distance times a slope of each head; no position embedding.",
    fills={"position": alibi_position},
    cost=Cost(time="T^2", state="T"),
    flops=causal_softmax,
    state_size=growing_cache,
    impls=("torch", "reference"),
    deviations="With a number of heads that is no power of two the slopes follow the authors' code, since "
    "the paper leaves that case open.",
    source="Checked against the paper's slopes for 8 and 16 heads and against dense attention with the bias "
    "written out, in fp64.",
    equations=(
        r"o_i = \sum_{j \le i} \mathrm{softmax}_j\left("
        r"\frac{q_i \cdot k_j}{\sqrt{D}} - m_h\,(i - j)\right) v_j",
        r"m_h = 2^{-8(h+1)/H}, \quad h = 0 \ldots H-1",
    ),
)

__getattr__ = lazy_exports(__name__, {"alibi_slopes": ".fast", "LinearBias": ".fast"})
