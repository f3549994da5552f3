"""Transformer-XL (arXiv:1901.02860): segments that attend to the stored states of the tokens before them."""

from typing import Any

from longatlas import Cost, LongAtlasError, Method, Option, Peer
from longatlas.flops import Call, segment_pairs, windowed_pairs
from longatlas.lazy import lazy_exports

__getattr__ = lazy_exports(
    __name__,
    {
        "relative_attention": ".operation",
        "chosen_impl": ".operation",
        "sinusoids": ".positions",
        "TransformerXL": ".mixer",
        "TransformerXLState": ".mixer",
    },
)


def build_mixer(config: Any, **options: Any) -> Any:
    """The attention layer; options as on the card, and `impl`. Raises LongAtlasError where they contradict."""
    from longatlas_plugins.long_term_memory.transformer_xl.mixer import TransformerXL

    return TransformerXL(config, **_checked(**options))


def flex_mixer(config: Any, **options: Any) -> Any:
    """The same by FlexAttention, the scores by distance added as a bias that lies in memory."""
    from longatlas_plugins.long_term_memory.transformer_xl.flex import FlexMixer

    return FlexMixer(config, **_checked(**options))


def _checked(*, mem_len: int, clamp_len: int, same_length: bool, **others: Any) -> dict[str, Any]:
    """What the mixer takes, from the card's options."""
    if same_length and mem_len == 0:
        raise LongAtlasError(
            "option 'same_length' is true with mem_len 0, so that a query would see no key, not even itself; "
            "give mem_len at least 1 or leave same_length out"
        )
    return {**others, "mem_len": mem_len, "clamp_len": clamp_len or None, "window": mem_len if same_length else None}


def _flops(call: Call, *, segment_len: int, mem_len: int, same_length: bool) -> float:
    """Two scores and one weighted sum per pair; the projection of the distances depends on no token."""
    pairs = windowed_pairs(call, mem_len) if same_length else segment_pairs(call, segment_len, mem_len)
    return 6 * call.heads * call.head_size * pairs


def _state_size(call: Call, *, segment_len: int, mem_len: int, cache: str) -> int:
    """Inputs of the layer, or keys and values: of the memory and of the unfinished segment."""
    unfinished = call.end % segment_len
    entries = unfinished + min(mem_len, call.end - unfinished)
    return call.keys_values(entries) if cache == "kv" else call.heads * call.head_size * entries


METHOD = Method(
    name="transformer_xl",
    title="Transformer-XL",
    family="long_term_memory/internal_cache/segment_recurrence",
    paper="1901.02860",
    summary="Reads a text in segments; each layer also attends to its stored inputs of earlier tokens.",
    fills={"mixer": build_mixer},
    options=(
        Option("segment_len", 256, "tokens in a segment, N", unit="tokens", min=1),
        Option("mem_len", 256, "stored inputs before the segment that it may attend to, M", unit="tokens", min=0),
        Option("clamp_len", 0, "distances beyond this count as this; 0 = no clamping", unit="tokens", min=0),
        Option("same_length", False, "every query sees exactly mem_len keys, itself included"),
        Option(
            "cache",
            "hidden",
            "what is stored: a layer's inputs, or their keys and values",
            choices=("hidden", "kv"),
        ),
    ),
    cost=Cost(time="T*(M+N)", state="M+N"),
    flops=_flops,
    state_size=_state_size,
    impls=("triton", "torch", "reference"),
    peers={"flex": Peer(flex_mixer)},
    deviations=(
        "Norms come first, so the stored hidden states are the normed inputs of the layer, and no gradient "
        "reaches the norm through them. "
        "Each layer has biases u and v of its own. "
        "The memory starts empty and grows; it holds no zeros that act as keys. "
        "With same_length a query sees mem_len keys, itself included. "
        "With cache=kv no gradient reaches W_k and W_v through the memory. "
        "Decoding folds W_k, W_v and W_R into the query and the output instead of projecting the memory "
        "again: the same mathematics in another order."
    ),
    source=(
        "Checked in fp64 against a double loop over queries and keys written from the paper, and against the "
        "attention layer of the authors' repository (kimiyoung/transformer-xl), with memory, clamp_len, same_length "
        "and all gradients."
    ),
    equations=(
        r"\tilde h^{n-1}_{\tau+1} = [\mathrm{SG}(h^{n-1}_\tau) \circ h^{n-1}_{\tau+1}]",
        r"q = h^{n-1} W_q^\top,\quad k, v = \tilde h^{n-1} W_{k,E}^\top,\ \tilde h^{n-1} W_v^\top",
        r"A_{ij} = q_i^\top k_j + q_i^\top W_{k,R} R_{i-j} + u^\top k_j + v^\top W_{k,R} R_{i-j}",
        r"o_i = \sum_{j \le i} \mathrm{softmax}_j(A_{ij} / \sqrt{D})\, v_j",
    ),
)
