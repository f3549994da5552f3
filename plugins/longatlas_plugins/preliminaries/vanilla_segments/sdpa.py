"""Attention within segments (arXiv:1901.02860, section 3.1) by one call of PyTorch's own attention: a peer."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def attend_in_segments(q: Tensor, k: Tensor, v: Tensor, segment_len: int) -> Tensor:
    """q [B, T, H, D]; k, v [B, S, H, D|E], the first key a segment's first -> o [B, T, H, E]."""
    queries, keys = q.shape[1], k.shape[1]
    if queries == 1:  # it sees every key that is kept, those of its segment
        return functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
    after = -keys % segment_len
    rows = (_segments(x, keys - x.shape[1], after, segment_len).transpose(1, 2) for x in (q, k, v))
    o = functional.scaled_dot_product_attention(*rows, is_causal=True).transpose(1, 2)
    return o.reshape(q.shape[0], -1, *o.shape[2:])[:, keys - queries : keys]


def _segments(x: Tensor, before: int, after: int, segment_len: int) -> Tensor:
    """x [B, T, H, D] -> [B * segments, N, H, D], padded with zeros at both ends."""
    padded = functional.pad(x, (0, 0, 0, 0, before, after)) if before or after else x
    return padded.reshape(-1, segment_len, *x.shape[2:])
