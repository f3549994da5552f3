"""FlashAttention (arXiv:2205.14135): exact attention in tiles, the score matrix never in slow memory."""

from typing import Any

from longatlas import Attention, Cost, Method, Peer
from longatlas.flops import causal_softmax, growing_cache


def tiled_attention(config: Any, *, impl: str) -> Attention:
    """Causal softmax attention through PyTorch's fused kernel."""
    from longatlas.ops import blockwise_attention

    def forward(q: Any, k: Any, v: Any, where: Any) -> Any:
        return blockwise_attention(
            q,
            k,
            v,
            score_mod=where.score_mod,
            q_positions=where.q_positions,
            k_positions=where.k_positions,
            visible=where.visible,
            impl=impl,
        )

    return Attention(forward=forward, by_row=True)


def flex_causal(config: Any) -> Attention:
    """The same by FlexAttention."""
    from longatlas.ops import causal, flex_attention

    return flex_attention(causal)


METHOD = Method(
    name="flash_attention",
    title="FlashAttention",
    family="efficient_attention/io_aware/flash",
    paper="2205.14135",
    summary="Vanilla attention's result, computed in tiles with a running softmax so that memory stays linear.",
    fills={"attention": tiled_attention},
    cost=Cost(time="T^2", state="T"),
    exact=True,
    flops=causal_softmax,
    state_size=growing_cache,
    impls=("torch", "reference"),
    peers={"flex": Peer(flex_causal)},
    training="retrofit",
    deviations="PyTorch's scaled_dot_product_attention does the tiling; on a CPU that is its flash kernel for CPUs.",
    source="Checked against dense softmax attention in fp64 (longatlas.ops.dense_attention).",
    equations=(
        r"m' = \max(m, \max_j s_j), \quad \ell' = e^{m-m'}\ell + \sum_j e^{s_j - m'}",
        r"o' = \left(e^{m-m'}\,\ell\, o + \sum_j e^{s_j-m'} v_j\right) / \ell'",
    ),
)
