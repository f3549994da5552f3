"""What Infini-attention carries between calls (arXiv:2404.07143)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# A memory whose normaliser is below this reads as zero: the features of the query or the keys underflowed.
NORMALISER_FLOOR = 1e-30


class InfiniState(NamedTuple):
    """The compressive memory of whole segments, and the tokens of the unfinished one.

    memory    M [B, Hkv, D, E], fp32 (fp64 for fp64 inputs); holds whole segments only
    norm      z [B, Hkv, D], in memory's dtype
    k, v      [B, R, Hkv, D|E]: the unfinished segment, before rotation; R = position % segment_len
    position  tokens read so far
    """

    memory: Tensor
    norm: Tensor
    k: Tensor
    v: Tensor
    position: int


class Carried(NamedTuple):
    """An InfiniState without its position, which in a decoder is the clock's."""

    memory: Tensor
    norm: Tensor
    k: Tensor
    v: Tensor


def empty_state(k: Tensor, v: Tensor) -> InfiniState:
    """The state before the first token, for k [B, T, Hkv, D] and v [B, T, Hkv, E]."""
    dtype = torch.promote_types(k.dtype, torch.float32)
    batch, _, heads, size = k.shape
    memory = torch.zeros(batch, heads, size, v.shape[3], dtype=dtype, device=k.device)
    return at_border(memory, memory.new_zeros(batch, heads, size), k, v, 0)


def at_border(memory: Tensor, norm: Tensor, k: Tensor, v: Tensor, position: int) -> InfiniState:
    """A state without an unfinished segment; k and v give the shapes of its empty cache."""
    empty_k, empty_v = (x.new_zeros(x.shape[0], 0, *x.shape[2:]) for x in (k, v))
    return InfiniState(memory, norm, empty_k, empty_v, position)
