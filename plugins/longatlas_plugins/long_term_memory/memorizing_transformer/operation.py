"""The public function memorizing_attention (arXiv:2203.08913): checks its arguments and chooses the impl."""

from __future__ import annotations

import torch
from torch import Tensor

from longatlas.errors import LongAtlasError
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
    if impl not in ("auto", *IMPLS):
        raise LongAtlasError(f"impl is {impl!r}; it must be one of auto, {', '.join(IMPLS)}")
    for name, value in (("segment_len", segment_len), ("memory_size", memory_size), ("top_k", top_k)):
        if not isinstance(value, int) or value < 1:
            raise LongAtlasError(f"{name} is {value!r}; it must be an integer, at least 1")
    _check_shapes(q, k, v, scale, gate)
    rule = Rule(segment_len, 0 if gate is None else memory_size, top_k, xl_cache)
    state = empty_state(k, v) if initial_state is None else initial_state
    _check_state(state, rule)
    run = IMPLS["torch" if impl == "auto" else impl]
    # Under autocast the search would run in 16 bits, and its blend with the local attention would not run at all.
    with torch.autocast(q.device.type, enabled=False):
        o, state = run(unit(q), unit(k), v, scale, scale if gate is None else gate, rule, rotate, state)
    return o, state if output_final_state else None


def _check_shapes(q: Tensor, k: Tensor, v: Tensor, scale: Tensor, gate: Tensor | None) -> None:
    shapes = f"q {list(q.shape)}, k {list(k.shape)}, v {list(v.shape)}"
    if not q.ndim == k.ndim == v.ndim == 4:
        raise LongAtlasError(f"{shapes}: expected q [B, T, H, D], k [B, T, Hkv, D], v [B, T, Hkv, E]")
    if q.shape[:2] != k.shape[:2] or k.shape[:3] != v.shape[:3] or q.shape[3] != k.shape[3]:
        raise LongAtlasError(f"{shapes}: B, T, the heads of k and v, and the D of q and k must agree")
    if q.shape[2] % k.shape[2]:
        raise LongAtlasError(f"{shapes}: q's heads must be a multiple of the heads of k and v")
    for name, given in (("scale", scale), ("gate", gate)):
        if given is not None and given.shape != q.shape[2:3]:
            raise LongAtlasError(f"{name} has shape {list(given.shape)}; it must be [H] = [{q.shape[2]}]")


def _check_state(state: MemorizingState, rule: Rule) -> None:
    whole = state.position - state.position % rule.segment_len
    expected = {
        "memory_k": min(whole, rule.memory_size),
        "k": rule.cached(state.position),
    }
    for name, tokens in expected.items():
        given = getattr(state, name).shape[1]
        if given != tokens:
            raise LongAtlasError(
                f"initial_state.{name} holds {given} tokens; at position {state.position} with these "
                f"settings it must hold {tokens}"
            )
