"""What a layer of the Memorizing Transformer carries between calls (arXiv:2203.08913)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Added to the squared length of queries and keys before they are divided by it.
NORM_EPS = 1e-6


class Rule(NamedTuple):
    """The settings of a layer; see memorizing_attention. memory_size 0 = a layer without memory."""

    segment_len: int
    memory_size: int
    top_k: int
    xl_cache: bool

    def cached(self, position: int) -> int:
        """Tokens before `position` that the local attention may still see or the memory has yet to get."""
        return min(position, self.segment_len - 1) if self.xl_cache else position % self.segment_len


class MemorizingState(NamedTuple):
    """Memory and local cache; keys have unit length and no rotation.

    memory_k, memory_v  [B, S, Hkv, D], [B, S, Hkv, E]: the last S <= memory_size tokens of whole segments,
                        detached; S = 0 in a layer without memory
    k, v                [B, R, Hkv, D], [B, R, Hkv, E]: the local cache, which holds the unfinished segment
    position            tokens read so far
    """

    memory_k: Tensor
    memory_v: Tensor
    k: Tensor
    v: Tensor
    position: int


class Carried(NamedTuple):
    """A MemorizingState without its position, which in a decoder is the clock's."""

    memory_k: Tensor
    memory_v: Tensor
    k: Tensor
    v: Tensor


def empty_state(k: Tensor, v: Tensor) -> MemorizingState:
    """The state before the first token, for k [B, T, Hkv, D] and v [B, T, Hkv, E]."""
    no_k, no_v = (x.new_zeros(x.shape[0], 0, *x.shape[2:]) for x in (k, v))
    return MemorizingState(no_k, no_v, no_k, no_v, 0)


def unit(x: Tensor) -> Tensor:
    """x [B, T, H, D] with vectors of length one (section 3.2), in x's dtype."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * torch.rsqrt(wide.square().sum(-1, keepdim=True) + NORM_EPS)).to(x.dtype)
