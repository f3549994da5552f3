"""The public function memorizing_attention (arXiv:2203.08913): checks its arguments and chooses the impl."""

from __future__ import annotations

import torch
from torch import Tensor

from longatlas.ops.arguments import check_choice, check_dtypes, check_positive, check_qkv, check_shape, check_tensors
from longatlas.slots import Rotate
from longatlas_plugins.long_term_memory.memorizing_transformer.fast import memorizing_attention_torch
from longatlas_plugins.long_term_memory.memorizing_transformer.reference import memorizing_attention_reference
from longatlas_plugins.long_term_memory.memorizing_transformer.state import (
    MemorizingState,
    Rule,
    empty_state,
    unit,
)

IMPLS = {"torch": memorizing_attention_torch, "reference": memorizing_attention_reference}


def memorizing_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: Tensor,
    gate: Tensor | None = None,
    *,
    segment_len: int,
    memory_size: int = 1024,
    top_k: int = 32,
    xl_cache: bool = True,
    rotate: Rotate | None = None,
    initial_state: MemorizingState | None = None,
    output_final_state: bool = False,
    impl: str = "auto",
) -> tuple[Tensor, MemorizingState | None]:
    """Local attention, blended with attention to the nearest keys among earlier segments (section 3).

    q              [B, T, H, D], before normalisation and rotation
    k, v           [B, T, Hkv, D], [B, T, Hkv, E]; query head h reads kv head h // (H // Hkv)
    scale          [H]: factor on the dot products of the normalised queries and keys
    gate           b_g [H]: the memory's share is sigmoid(b_g); None = a layer without memory
    segment_len    N, tokens; the memory is written after each, counted from the start of the sequence
    memory_size    M, tokens: the latest pairs of whole segments that are kept; they get no gradient
    top_k          pairs that a query takes from the memory, those of the highest dot products (all, if fewer)
    xl_cache       True: a query sees the last N tokens locally; False: those of its own segment
    rotate         rotate(q, k, positions [T]) -> (q, k), for the local attention only
    initial_state  MemorizingState to continue from; None = start of a sequence
    impl           "auto", "torch" or "reference"

    Returns o [B, T, H, E] in v's dtype, and the MemorizingState after the last token, or None when
    output_final_state is False. Any T, 0 included. While the memory is empty o is the local attention alone.

    Raises LongAtlasError (a ValueError) for shapes that do not fit and for values that are not allowed.
    """
    check_choice("impl", impl, ("auto", *IMPLS))
    check_positive(segment_len=segment_len, memory_size=memory_size, top_k=top_k)
    check_qkv(q, k, v, grouped=True)
    check_dtypes(q=q, k=k, v=v)
    for name, given in (("scale", scale), *((("gate", gate),) if gate is not None else ())):
        check_tensors(**{name: given})
        check_shape(name, given, "H", q.shape[2:3])
    rule = Rule(segment_len, 0 if gate is None else memory_size, top_k, xl_cache)
    state = empty_state(k, v) if initial_state is None else initial_state
    _check_state(state, k, v, rule)
    run = IMPLS["torch" if impl == "auto" else impl]
    # Under autocast the search would run in 16 bits, and its blend with the local attention would not run at all.
    with torch.autocast(q.device.type, enabled=False):
        o, state = run(unit(q), unit(k), v, scale, scale if gate is None else gate, rule, rotate, state)
    return o, state if output_final_state else None


def _check_state(state: MemorizingState, k: Tensor, v: Tensor, rule: Rule) -> None:
    batch, _, heads, size = k.shape
    whole = state.position - state.position % rule.segment_len
    stored, cached = min(whole, rule.memory_size), rule.cached(state.position)
    for name, tokens in (("memory_k", stored), ("memory_v", stored), ("k", cached), ("v", cached)):
        tensor, when = getattr(state, name), f"at position {state.position} with these settings"
        symbols, width = ("B S Hkv E", v.shape[3]) if name.endswith("v") else ("B S Hkv D", size)
        check_tensors(**{f"initial_state.{name}": tensor})
        check_shape(f"initial_state.{name}", tensor, symbols, (batch, tokens, heads, width), when)
