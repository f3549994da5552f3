"""Infini-attention: local attention beside a compressive memory of earlier segments (arXiv:2404.07143)."""

from typing import TYPE_CHECKING, Any

from longatlas import Cost, Method, Option
from longatlas.flops import Call, segment_pairs
from longatlas.lazy import lazy_exports

if TYPE_CHECKING:
    from longatlas_plugins.long_term_memory.infini_attention.operation import chosen_impl, infini_attention
    from longatlas_plugins.long_term_memory.infini_attention.state import InfiniState

__all__ = ["METHOD", "InfiniState", "chosen_impl", "infini_attention"]

__getattr__ = lazy_exports(
    __name__, {"infini_attention": ".operation", "chosen_impl": ".operation", "InfiniState": ".state"}
)


def mixer(config: Any, *, segment_len: int, update: str, first_segment: str, rotate: Any, impl: str = "auto") -> Any:
    """The `mixer` slot: an InfiniMixer."""
    from longatlas_plugins.long_term_memory.infini_attention.mixer import InfiniMixer

    return InfiniMixer(
        config, segment_len=segment_len, update=update, first_segment=first_segment, rotate=rotate, impl=impl
    )


def _flops(call: Call, *, segment_len: int, update: str) -> float:
    """Local attention, a read of the memory by every token after the first segment, and whole segments written."""
    product, norm = 2 * call.head_size**2, 2 * call.head_size
    readers = call.end - max(call.past, min(segment_len, call.end))
    written = call.end // segment_len - call.past // segment_len
    corrected = written - (call.past < segment_len <= call.end) if update == "delta" else 0
    reads = call.heads * readers * (product + norm)
    writes = call.kv_heads * segment_len * (written * product + corrected * (product + norm))
    return call.softmax(segment_pairs(call, segment_len)) + reads + writes


def _state_size(call: Call, *, segment_len: int) -> int:
    """M, z and the unfinished segment."""
    return call.kv_heads * call.head_size * (call.head_size + 1) + call.keys_values(call.end % segment_len)


METHOD = Method(
    name="infini_attention",
    title="Infini-attention",
    family="long_term_memory/internal_cache/compressive_memory",
    paper="2404.07143",
    summary="Softmax attention within a segment, blended by a learned gate with a fixed-size memory of all "
    "segments before it.",
    fills={"mixer": mixer},
    options=(
        Option("segment_len", 256, "tokens in a segment", unit="tokens", min=1),
        Option("update", "linear", "how a segment is written to the memory", choices=("linear", "delta")),
        Option(
            "first_segment",
            "local",
            "output while the memory is empty: local attention alone, or (1 - g) times it",
            choices=("local", "gated"),
        ),
    ),
    cost=Cost(time="T*N", state="N"),
    flops=_flops,
    state_size=_state_size,
    impls=("triton", "torch", "reference"),
    deviations="Where the paper leaves things open: while the memory is empty the output is the local "
    "attention alone (option first_segment); a memory whose normaliser is below 1e-30 reads as zero; memory "
    "and normaliser are kept in fp32. Softmax scores are divided by the square root of the head size. "
    "Positions are rotary, on the local attention only. The gate starts at 0, an even blend.",
    source="Checked against a token-by-token loop of the paper's equations and, for the linear update, its "
    "closed form, in fp64.",
    equations=(
        r"A_{mem} = \frac{\sigma(Q)\, M_{s-1}}{\sigma(Q)\, z_{s-1}}, \qquad \sigma(x) = \mathrm{ELU}(x) + 1",
        r"M_s = M_{s-1} + \sigma(K)^\top V, \qquad z_s = z_{s-1} + \sum_{t=1}^{N} \sigma(K_t)",
        r"M_s = M_{s-1} + \sigma(K)^\top \left(V - \frac{\sigma(K)\, M_{s-1}}{\sigma(K)\, z_{s-1}}\right)"
        r"\quad \text{(delta)}",
        r"A = \mathrm{sigmoid}(\beta) \odot A_{mem} + (1 - \mathrm{sigmoid}(\beta)) \odot A_{dot}",
    ),
)
