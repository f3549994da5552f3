"""The textbook decoder (arXiv:1706.03762 with today's parts), its scores held as one T x S matrix."""

from typing import Any

from longatlas import Attention, Cost, Method
from longatlas.flops import causal_softmax, growing_cache


def _default(slot: str) -> Any:
    def build(config: Any) -> Any:
        from longatlas.decoder import defaults

        return getattr(defaults, slot)(config)

    return build


def standard_attention(config: Any, *, impl: str) -> Attention:
    """Softmax attention that writes the whole score matrix to memory and reads it back."""
    from longatlas.ops import dense_attention
    from longatlas_plugins.preliminaries.vanilla.fast import attend

    def reference(q: Any, k: Any, v: Any, where: Any) -> Any:
        places = {"q_positions": where.q_positions, "k_positions": where.k_positions, "visible": where.visible}
        return dense_attention(q, k, v, score_mod=where.score_mod, **places)

    return Attention(forward=reference if impl == "reference" else attend, by_row=True)


METHOD = Method(
    name="vanilla",
    title="Vanilla Transformer",
    family="preliminaries",
    paper="1706.03762",
    summary="A decoder with the plain choice in every slot: the yardstick for all others.",
    fills={
        "position": _default("position"),
        "memory": _default("memory"),
        "attention": standard_attention,
        "ffn": _default("ffn"),
        "objective": _default("objective"),
    },
    cost=Cost(time="T^2", state="T"),
    exact=True,
    flops=causal_softmax,
    state_size=growing_cache,
    impls=("torch", "reference"),
    deviations="Rotary positions, a gated feed-forward part and norms that come first, as in today's decoders.",
    source="Checked against the definition of softmax attention in fp64 (longatlas.ops.dense_attention).",
    equations=(r"o_i = \sum_{j \le i} \mathrm{softmax}_j\left(\frac{q_i \cdot k_j}{\sqrt{D}}\right) v_j",),
)
