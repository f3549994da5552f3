"""Attention over parts of the keys, put together: the log-sum-exp merge (arXiv:2205.14135, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from longatlas.errors import LongAtlasError


def merge_attention(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Softmax attention over the union of disjoint sets of keys, from that over each set.

    parts  pairs of o [B, T, H, E] and lse [B, T, H], as blockwise_attention(..., return_lse=True) gives them. A query
           that sees no key of a set has lse = -inf there, and its o counts for nothing

    Returns o and lse of the union; a query that sees no key at all gets o = 0 and lse = -inf. Gradients flow to both.
    Raises LongAtlasError for an empty list and for shapes that differ.
    """
    if not parts:
        raise LongAtlasError("merge_attention got no parts; give at least one pair of o and lse")
    shapes = {(tuple(o.shape), tuple(lse.shape)) for o, lse in parts}
    (o_shape, lse_shape), *others = shapes
    if others or o_shape[:3] != lse_shape:
        raise LongAtlasError(
            f"merge_attention got parts of the shapes {sorted(shapes)}; all must be o [B, T, H, E] with lse [B, T, H]"
        )
    each = torch.stack([lse for _, lse in parts])  # [n, B, T, H]
    total = log_sum_exp(each, 0)
    weights = torch.exp(each - total.masked_fill(total.isneginf(), 0.0))
    values = torch.stack([o for o, _ in parts]).masked_fill(each.isneginf()[..., None], 0.0)
    return (weights[..., None] * values).sum(0).to(values.dtype), total


def log_sum_exp(scores: Tensor, dim: int = -1) -> Tensor:
    """log Σ exp along a dimension; -inf, with a gradient of 0, where all scores are -inf."""
    empty = scores.isneginf().all(dim, keepdim=True) if scores.shape[dim] else None
    if empty is None:
        return scores.sum(dim) - torch.inf
    lse = torch.logsumexp(scores.masked_fill(empty, 0.0), dim)
    return lse.masked_fill(empty.squeeze(dim), -torch.inf)


def masked_softmax(scores: Tensor, seen: Tensor | None) -> Tensor:
    """Softmax over the last dimension where `seen` is true; 0, with a gradient of 0, in a row that sees nothing."""
    if seen is None:
        return torch.softmax(scores, -1)
    blind = ~seen.any(-1, keepdim=True)
    return torch.softmax(scores.masked_fill(~seen & ~blind, -torch.inf), -1).masked_fill(blind, 0.0)
