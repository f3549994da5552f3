"""Parallel Context Windows (arXiv:2212.10947, section 2): the cut, and the union of the windows' caches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from longatlas import LongAtlasError, UnsupportedError
from longatlas.decoder.defaults import KVCache
from longatlas.decoder.state import BlockState, DecoderState
from longatlas.slots import Prompt

NEEDS = "parallel_context_windows joins growing key-value caches only"


def split_windows(tokens: Tensor, *, query_len: int, window: int) -> Prompt:
    """Cut tokens [B, T] into windows of `window` tokens (the last may be shorter) and the task tokens.

    An input of at most `query_len` tokens has no windows. Raises LongAtlasError for sizes below 1.
    """
    if query_len < 1 or window < 1:
        raise LongAtlasError(f"query_len is {query_len} and window {window}; both must be at least 1")
    context = tokens.shape[1] - query_len
    if context <= 0:
        return Prompt((), tokens)
    return Prompt(tokens[:, :context].split(window, 1), tokens[:, context:])


def merge_states(states: Sequence[DecoderState]) -> DecoderState:
    """One state that holds all windows' keys and values; the next token's position follows the longest one.

    Raises UnsupportedError for states that are not growing key-value caches.
    """
    for state in states:
        for block in state.layers:
            _check_cache(block, state.position)
    layers = zip(*(state.layers for state in states), strict=True)
    return DecoderState(max(state.position for state in states), tuple(map(_merge_layer, layers)))


def _merge_layer(blocks: Sequence[BlockState]) -> BlockState:
    caches: list[KVCache] = [block.mixer for block in blocks]
    k = torch.cat([cache.k for cache in caches], 1)  # [B, S, H, D]
    v = torch.cat([cache.v for cache in caches], 1)
    return BlockState(None, KVCache(k, v, torch.cat([cache.positions for cache in caches])))


def _check_cache(block: BlockState, read: int) -> None:
    if block.conv is not None:
        raise UnsupportedError(f"{NEEDS}; a short convolution's state belongs to one window: set short_conv=0")
    if not isinstance(block.mixer, KVCache):
        raise UnsupportedError(f"{NEEDS}; the state here is of type {type(block.mixer).__name__}")
    if block.mixer.k.shape[1] != read:
        raise UnsupportedError(
            f"{NEEDS}; this one has kept {block.mixer.k.shape[1]} of {read} keys: give windows it keeps whole"
        )
