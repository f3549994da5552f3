"""Memorizing Transformer: one layer looks up its nearest keys in a memory of the past (arXiv:2203.08913)."""

from typing import TYPE_CHECKING, Any

from longatlas import Cost, Method, Option
from longatlas.flops import Call, earlier_pairs, segment_pairs, windowed_pairs
from longatlas.lazy import lazy_exports

if TYPE_CHECKING:
    from longatlas_plugins.long_term_memory.memorizing_transformer.operation import memorizing_attention
    from longatlas_plugins.long_term_memory.memorizing_transformer.state import MemorizingState

__all__ = ["METHOD", "MemorizingState", "memorizing_attention"]

__getattr__ = lazy_exports(__name__, {"memorizing_attention": ".operation", "MemorizingState": ".state"})


def mixer(
    config: Any,
    *,
    segment_len: int,
    memory_size: int,
    top_k: int,
    memory_layer: int,
    xl_cache: bool,
    rotate: Any,
    impl: str = "auto",
) -> Any:
    """The `mixer` slot: a MemorizingMixer, with the memory in the layer `memory_layer` only."""
    from longatlas_plugins.long_term_memory.memorizing_transformer.mixer import MemorizingMixer

    return MemorizingMixer(
        config,
        segment_len=segment_len,
        memory_size=memory_size,
        top_k=top_k,
        memory_layer=memory_layer,
        xl_cache=xl_cache,
        rotate=rotate,
        impl=impl,
    )


def _flops(call: Call, *, segment_len: int, memory_size: int, top_k: int, memory_layer: int, xl_cache: bool) -> float:
    """Local attention; in the memory layer a score for every stored pair and a sum over the top_k."""
    local = windowed_pairs(call, segment_len) if xl_cache else segment_pairs(call, segment_len)
    if call.layer != memory_layer % call.n_layers:
        return call.softmax(local)
    stored = earlier_pairs(call, segment_len, memory_size)
    summed = earlier_pairs(call, segment_len, min(top_k, memory_size))
    return call.softmax(local) + 2 * call.heads * call.head_size * (stored + summed)


def _state_size(call: Call, *, segment_len: int, memory_size: int, memory_layer: int, xl_cache: bool) -> int:
    """The local cache; in the memory layer also the latest tokens of whole segments."""
    unfinished = call.end % segment_len
    local = min(call.end, segment_len - 1) if xl_cache else unfinished
    has_memory = call.layer == memory_layer % call.n_layers
    return call.keys_values(local + (min(memory_size, call.end - unfinished) if has_memory else 0))


METHOD = Method(
    name="memorizing_transformer",
    title="Memorizing Transformer",
    family="long_term_memory/internal_cache/alternate_designs",
    paper="2203.08913",
    summary="Local attention everywhere; in one layer each query also attends to its nearest neighbours "
    "among the keys and values of earlier segments.",
    fills={"mixer": mixer},
    options=(
        Option("segment_len", 256, "tokens in a segment, and keys a query sees locally", unit="tokens", min=1),
        Option("memory_size", 1024, "latest key-value pairs kept in the memory", unit="tokens", min=1),
        Option("top_k", 32, "pairs a query takes from the memory", unit="tokens", min=1),
        Option("memory_layer", -1, "layer that has the memory, counted from 0; -1 = the last", min=-1),
        Option("xl_cache", True, "let the local attention reach back into the previous segment"),
    ),
    cost=Cost(time="T*N+T*M", state="M+N"),
    flops=_flops,
    state_size=_state_size,
    impls=("torch", "reference"),
    deviations="The search is exact, not approximate. The local attention has rotary positions in place of "
    "the relative bias of T5; the memory has no positions. The learned scale of the normalised dot products "
    "starts at the square root of the head size. While the memory is empty the output is the local attention "
    "alone.",
    source="Checked against dense masked attention and a sorted search, query by query, in fp64. Gate, "
    "normalisation and order of reading and writing follow google-research/meliad.",
    equations=(
        r"V_m = \sum_{j \in \mathrm{top}_k(\hat q \cdot \hat k_j)} "
        r"\mathrm{softmax}_j\left(s\, \hat q \cdot \hat k_j\right) v_j, \qquad \hat x = x / \lVert x \rVert",
        r"V_a = g \odot V_m + (1 - g) \odot V_c, \qquad g = \sigma(b_g)",
    ),
)
