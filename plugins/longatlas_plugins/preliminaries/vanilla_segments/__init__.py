"""Fixed segments without memory: what Transformer-XL replaced (arXiv:1901.02860, section 3.1)."""

from typing import Any

from longatlas import Attention, Cost, Memory, Method, Option, Peer
from longatlas.flops import segment_pairs


def segment_mask(config: Any, *, segment_len: int) -> Attention:
    """A query sees the keys of its own segment."""
    return Attention(mask_mod=_same_segment(segment_len))


def flex_segments(config: Any, *, segment_len: int) -> Attention:
    """The same by FlexAttention."""
    from longatlas.ops import flex_attention

    return flex_attention(_same_segment(segment_len))


def sdpa_segments(config: Any, *, segment_len: int) -> Attention:
    """The same by one call of PyTorch's scaled_dot_product_attention, segments being rows of its batch."""

    def forward(q: Any, k: Any, v: Any, where: Any) -> Any:
        from longatlas_plugins.preliminaries.vanilla_segments.sdpa import attend_in_segments

        return attend_in_segments(q, k, v, segment_len)

    return Attention(forward=forward)


def _same_segment(segment_len: int) -> Any:
    def same_segment(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return q_idx // segment_len == kv_idx // segment_len

    return same_segment


def segment_cache(config: Any, *, segment_len: int) -> Memory:
    """Keep the keys of the unfinished segment only."""

    def extend(k: Any, v: Any, past: Any, here: Any) -> Any:
        from longatlas.decoder.defaults import grow_cache, keep

        seen = grow_cache(k, v, past, here)
        return keep(seen, seen.positions >= here.end - here.end % segment_len)

    return Memory(extend)


METHOD = Method(
    name="vanilla_segments",
    title="Vanilla segments",
    family="preliminaries",
    paper="1901.02860",
    summary="Cuts the text into fixed segments and forgets everything at each border.",
    fills={"memory": segment_cache, "attention": segment_mask},
    options=(Option("segment_len", 256, "tokens in a segment", unit="tokens", min=1),),
    cost=Cost(time="T*N", state="N"),
    flops=lambda call, *, segment_len: call.softmax(segment_pairs(call, segment_len)),
    state_size=lambda call, *, segment_len: call.keys_values(call.end % segment_len),
    impls=("torch", "reference"),
    peers={"flex": Peer(flex_segments), "sdpa": Peer(sdpa_segments)},
    source="Checked against dense attention with a block-diagonal mask in fp64.",
    equations=(
        r"o_i = \sum_{j \le i,\ \lfloor j/N \rfloor = \lfloor i/N \rfloor} "
        r"\mathrm{softmax}_j(q_i \cdot k_j / \sqrt{D})\, v_j",
    ),
)
