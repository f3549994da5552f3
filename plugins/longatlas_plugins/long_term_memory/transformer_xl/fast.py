"""Relative attention by blocks of queries (arXiv:1901.02860, appendix B): the shift is a view, not a copy.

For a block of l queries and the w keys in its reach, the products of queries and distances, G [l, w + 1], have
the distance falling from left to right and one spare column. Read from element l - 1 on with rows of w elements,
the same storage is the score of query and key: row r starts one element earlier in its own row than row r - 1
did. Entries above the diagonal then belong to the next row's storage; causality masks exactly those.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

QUERY_BLOCK = 256
# Elements of one tile's score matrix: about what a core's cache holds.
TILE = 1 << 19


class Tile(NamedTuple):
    """heads, batch, queries: ranges of them; keys: the range in reach of those queries."""

    heads: slice
    batch: slice
    queries: slice
    keys: slice


def relative_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_k: Tensor,
    content_bias: Tensor,
    position_bias: Tensor,
    *,
    window: int | None,
    clamp_len: int | None,
    scale: float,
) -> Tensor:
    """Arguments as in operation.relative_attention; working memory grows with the block, not with L x K."""
    if q.numel() == 0 or v.numel() == 0:
        return q.new_zeros(*q.shape[:3], v.shape[3])
    dtype = torch.promote_types(q.dtype, torch.float32)
    content = (q.to(dtype) + content_bias.to(dtype)) * scale
    position = (q.to(dtype) + position_bias.to(dtype)) * scale
    inputs = [_head_first(x.to(dtype)) for x in (content, position, k, v)]
    # In fp32 first: the gradient of a row that many distances share is a sum.
    rel = _falling_rows(rel_k.to(dtype), k.shape[1], q.shape[1], window, clamp_len)
    inputs.append(rel.transpose(0, 1).contiguous())  # [H, span + 1, D]
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        o = _Blocks.apply(*inputs, window)
    else:
        o = _forward(*inputs, window)
    return o.permute(1, 2, 0, 3).to(q.dtype)


def _head_first(x: Tensor) -> Tensor:
    """[B, T, H, D] -> [H, B, T, D]: a head's rows of all sequences meet its distances in one product."""
    return x.permute(2, 0, 1, 3).contiguous()


def _falling_rows(rel_k: Tensor, keys: int, queries: int, window: int | None, clamp_len: int | None) -> Tensor:
    """rel_k by falling distance, then the spare row: [span + 1, H, D]; hidden distances repeat the last used."""
    span, last = keys, keys - 1
    if window is not None:
        span, last = min(keys, window + min(queries, QUERY_BLOCK) - 1), min(last, window - 1)
    if clamp_len is not None:
        last = min(last, clamp_len)
    rows = torch.arange(span - 1, -2, -1, device=rel_k.device).clamp(0, last)
    return rel_k.index_select(0, rows)


def _tiles(q: Tensor, keys: int, window: int | None) -> Iterator[Tile]:
    """Ranges that cover q [H, B, L, D], each with about TILE scores."""
    heads, batch, queries, _ = q.shape
    for start in range(0, queries, QUERY_BLOCK):
        end = min(queries, start + QUERY_BLOCK)
        high = end + keys - queries
        low = 0 if window is None else max(0, start + keys - queries - window + 1)
        room = max(1, TILE // ((end - start) * (high - low)))
        some_batch, some_heads = (max(1, room // heads), heads) if room >= heads else (1, room)
        for h in range(0, heads, some_heads):
            for b in range(0, batch, some_batch):
                yield Tile(slice(h, h + some_heads), slice(b, b + some_batch), slice(start, end), slice(low, high))


def _position_scores(qv: Tensor, rel: Tensor, tile: Tile, memory: int, window: int | None) -> Tensor:
    """The masked positional term [h, b, l, w] of a tile; qv [h, b, l, D], rel [h, w + 1, D]."""
    _, batch, rows, _ = qv.shape
    width = rel.shape[1] - 1
    by_distance = qv.flatten(1, 2) @ rel.transpose(1, 2)  # [h, b * l, w + 1]
    scores = _shifted(by_distance, batch, rows, width)
    later = torch.ones(rows, rows, dtype=torch.bool, device=qv.device).triu_(1)
    scores[..., width - rows :].masked_fill_(later, -math.inf)
    if window is not None:
        # Row r reaches back to key r + first; keys before it are out of the window.
        first = tile.queries.start + memory - window + 1 - tile.keys.start
        edge = first + rows - 1
        if edge > 0:
            columns = torch.arange(edge, device=qv.device)
            gone = columns < torch.arange(first, first + rows, device=qv.device)[:, None]
            scores[..., :edge].masked_fill_(gone, -math.inf)
    return scores


def _shifted(by_distance: Tensor, batch: int, rows: int, width: int) -> Tensor:
    """The view of contiguous [h, b * l, w + 1] whose columns are keys: [h, b, l, w] (appendix B)."""
    block = rows * (width + 1)
    strides = (batch * block, block, width, 1)
    start = by_distance.storage_offset() + rows - 1
    return by_distance.as_strided((by_distance.shape[0], batch, rows, width), strides, start)


def _parts(tile: Tile, qu: Tensor, qv: Tensor, k: Tensor, v: Tensor, rel: Tensor) -> tuple[Tensor, ...]:
    at_queries = (tile.heads, tile.batch, tile.queries)
    at_keys = (tile.heads, tile.batch, tile.keys)
    width = tile.keys.stop - tile.keys.start
    return qu[at_queries], qv[at_queries], k[at_keys], v[at_keys], rel[tile.heads, rel.shape[1] - 1 - width :]


def _forward(qu: Tensor, qv: Tensor, k: Tensor, v: Tensor, rel: Tensor, window: int | None) -> Tensor:
    """o [H, B, L, E]; the fused softmax of scaled_dot_product_attention takes the positional term as mask."""
    o = qu.new_empty(*qu.shape[:3], v.shape[3])
    memory = k.shape[2] - qu.shape[2]
    for tile in _tiles(qu, k.shape[2], window):
        tile_qu, tile_qv, tile_k, tile_v, tile_rel = _parts(tile, qu, qv, k, v, rel)
        scores = _position_scores(tile_qv, tile_rel, tile, memory, window)
        o[tile.heads, tile.batch, tile.queries] = functional.scaled_dot_product_attention(
            tile_qu, tile_k, tile_v, attn_mask=scores, scale=1.0
        )
    return o


class _Blocks(torch.autograd.Function):
    """Forward as without gradients; the backward pass computes each tile's weights again."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        *inputs, ctx.window = args
        o = _forward(*inputs, ctx.window)
        ctx.save_for_backward(*inputs, o)
        return o

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, o = ctx.saved_tensors
        grads = [torch.zeros_like(x) for x in inputs]
        delta = (do * o).sum(-1, keepdim=True)  # [H, B, L, 1]
        memory = inputs[2].shape[2] - inputs[0].shape[2]
        for tile in _tiles(inputs[0], inputs[2].shape[2], ctx.window):
            at = (tile.heads, tile.batch, tile.queries)
            _add_grads(tile, inputs, grads, do[at], delta[at], memory, ctx.window)
        return (*grads, None)


def _add_grads(
    tile: Tile,
    inputs: list[Tensor],
    grads: list[Tensor],
    do: Tensor,
    delta: Tensor,
    memory: int,
    window: int | None,
) -> None:
    """Add one tile's share to the gradients of qu, qv, k, v and rel."""
    qu, qv, k, v, rel = _parts(tile, *inputs)
    dqu, dqv, dk, dv, drel = _parts(tile, *grads)
    scores = _position_scores(qv, rel, tile, memory, window)
    weights = (scores + qu @ k.transpose(2, 3)).softmax(-1)  # [h, b, l, w]
    dv += weights.transpose(2, 3) @ do
    pull = (do @ v.transpose(2, 3)).sub_(delta)
    heads, batch, rows, width = weights.shape
    by_distance = pull.new_zeros(heads, batch * rows, width + 1)
    dscores = torch.mul(weights, pull, out=_shifted(by_distance, batch, rows, width))
    dqu += dscores @ k
    dk += dscores.transpose(2, 3) @ qu
    dqv += (by_distance @ rel).view_as(dqv)
    drel += by_distance.transpose(1, 2) @ qv.flatten(1, 2)
