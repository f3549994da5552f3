"""Sliding-window attention (Longformer, arXiv:2004.05150, section 3.1): each token sees the W most recent ones."""

from typing import Any

from longatlas import Attention, Cost, Memory, Method, Option, Peer
from longatlas.flops import windowed_pairs


def window_mask(config: Any, *, window: int, impl: str) -> Attention:
    """A query sees itself and the window - 1 tokens before it."""
    if impl == "reference":
        from longatlas_plugins.efficient_attention.sliding_window.reference import windowed_attention

        return Attention(forward=lambda q, k, v, where: windowed_attention(q, k, v, where, window))

    return Attention(mask_mod=_in_window(window))


def flex_window(config: Any, *, window: int) -> Attention:
    """The same by FlexAttention."""
    from longatlas.ops import flex_attention

    return flex_attention(_in_window(window))


def _in_window(window: int) -> Any:
    def in_window(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return q_idx - kv_idx < window

    return in_window


def window_cache(config: Any, *, window: int) -> Memory:
    """Keep the window - 1 keys that the next token can still see."""

    def extend(k: Any, v: Any, past: Any, here: Any) -> Any:
        from longatlas.decoder.defaults import grow_cache, keep

        seen = grow_cache(k, v, past, here)
        return keep(seen, seen.positions > here.end - window)

    return Memory(extend)


METHOD = Method(
    name="sliding_window",
    title="Sliding window",
    family="efficient_attention/local/sliding_window",
    paper="2004.05150",
    summary="Each token attends to a fixed window of recent tokens; layers stacked on one another reach further.",
    fills={"attention": window_mask, "memory": window_cache},
    options=(Option("window", 512, "keys a query sees, itself included", unit="tokens", min=1),),
    cost=Cost(time="T*W", state="W"),
    flops=lambda call, *, window: call.softmax(windowed_pairs(call, window)),
    state_size=lambda call, *, window: call.keys_values(min(call.end, window - 1)),
    impls=("torch", "reference"),
    peers={"flex": Peer(flex_window)},
    deviations="Causal windows only; without Longformer's dilation and global tokens.",
    source="Checked against a loop over queries in fp64 and dense attention with a band mask.",
    equations=(r"o_i = \sum_{i-W < j \le i} \mathrm{softmax}_j(q_i \cdot k_j / \sqrt{D})\, v_j",),
)
