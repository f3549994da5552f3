"""Relative attention, forward: a flash loop that makes the positional term of each tile on the way."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from longatlas.kernels import launch
from longatlas.kernels.primitives import LOG2E, load_tile, matmul, rounded, row_products, tile_at, tile_mask
from longatlas_plugins.long_term_memory.transformer_xl.kernels.band import distance_products, joined, skewed
from longatlas_plugins.long_term_memory.transformer_xl.kernels.layout import (
    RUNTIME,
    Layout,
    shape_arguments,
    tiles_of,
)


@triton.jit
def farthest_tile(first_query, memory, reach, BLOCK: tl.constexpr):
    """The number of the farthest tile with a key that a block of queries sees."""
    return tl.minimum((first_query + memory + BLOCK - 1) // BLOCK, (reach + BLOCK - 2) // BLOCK)


@triton.jit
def visible(row, column, distance, key, queries_inside, keys, reach):
    """Where query and key are real, and the key is neither later nor beyond the reach; distance of row 0, column 0."""
    apart = (distance + row)[:, None] - column[None, :]
    real = (key + column >= 0) & (key + column < keys)
    return (apart >= 0) & (apart < reach) & real[None, :] & queries_inside[:, None]


@triton.jit(do_not_specialize=RUNTIME)
def forward_kernel(
    content_q, position_q, k, v, rel_k, out, log_sums, scale,
    queries, keys, heads, reach, clamp,
    FEATURES: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr, PART: tl.constexpr,
    DERIVED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A block of queries of one head, and WIDTH columns of the output; q + u, q + v [B, L, H, D], rel_k [R, H, D]."""
    head, batch = (tl.program_id(1) % heads).to(tl.int64), (tl.program_id(1) // heads).to(tl.int64)
    first = tl.program_id(0) * BLOCK
    row, column = tl.arange(0, BLOCK), tl.arange(0, BLOCK)
    columns = tl.program_id(2) * WIDTH + tl.arange(0, WIDTH)
    inside = first + row < queries
    at_query = batch * queries + first
    memory = keys - queries
    last = tl.minimum(clamp, reach - 1)
    farthest = farthest_tile(first, memory, reach, BLOCK)
    # Tiles beyond `near` lie wholly beyond clamp_len: one product per query serves them all.
    near = tl.minimum(farthest, (clamp + BLOCK - 2) // BLOCK)

    running_max = tl.full([BLOCK], -float("inf"), tl.float32)
    running_sum = tl.zeros([BLOCK], tl.float32)
    total = tl.zeros([BLOCK, WIDTH], tl.float32)
    upper = distance_products(
        position_q, at_query, heads, head, row, inside, rel_k, (near + 1) * BLOCK + column, last,
        FEATURES, PART, PRECISION,
    )  # fmt: skip
    for index in range(farthest + 1):
        tile = farthest - index
        key = first + memory - tile * BLOCK
        scores = row_products(
            content_q, at_query, heads, head, row, inside,
            k, batch * keys + key, heads, head, column, (key + column >= 0) & (key + column < keys),
            FEATURES, PART, PRECISION,
        )  # fmt: skip
        # Where all distances are clamped every column of `upper` is the same.
        if tile <= near:
            lower = distance_products(
                position_q, at_query, heads, head, row, inside, rel_k, (tile - 1) * BLOCK + column, last,
                FEATURES, PART, PRECISION,
            )  # fmt: skip
            if tile == near:
                upper = distance_products(
                    position_q, at_query, heads, head, row, inside, rel_k, tile * BLOCK + column, last,
                    FEATURES, PART, PRECISION,
                )  # fmt: skip
            scores += skewed(joined(upper, lower, tile * BLOCK, BLOCK), tile * BLOCK, BLOCK)
            upper = lower
        else:
            scores += upper
        seen = visible(row, column, tile * BLOCK, key, inside, keys, reach)
        scores = tl.where(seen, scores * (scale * LOG2E), -float("inf"))
        new_max = tl.maximum(running_max, tl.max(scores, 1))
        # A row that has seen no key yet: exp2(-inf - -inf) would be NaN.
        base = tl.where(new_max == -float("inf"), 0.0, new_max)
        weights = tl.exp2(scores - base[:, None])
        kept = tl.exp2(running_max - base)
        running_sum = running_sum * kept + tl.sum(weights, 1)
        in_keys = (key + column >= 0) & (key + column < keys)
        value = load_tile(v, batch * keys + key, heads, head, column, in_keys, columns, COLUMNS, COLUMNS % WIDTH != 0)
        total = matmul(rounded(weights, v.dtype.element_ty), value, total * kept[:, None], PRECISION)
        running_max = new_max
    output = total / tl.where(inside, running_sum, 1.0)[:, None]
    at_out = tile_at(out, at_query, heads, head, row, columns, COLUMNS)
    mask = tile_mask(inside, columns, COLUMNS, COLUMNS % WIDTH != 0)
    tl.store(at_out, rounded(output, out.dtype.element_ty), mask=mask)
    if tl.program_id(2) == 0:
        at_sums = (batch * heads + head) * queries + first + row
        tl.store(log_sums + at_sums, running_max + tl.log2(tl.where(inside, running_sum, 1.0)), mask=inside)


def forward(
    content_q: Tensor, position_q: Tensor, k: Tensor, v: Tensor, rel_k: Tensor, scale: float, layout: Layout
) -> tuple[Tensor, Tensor]:
    """o [B, L, H, E], and the base-2 logarithm of each query's sum of weights [B, H, L], fp32."""
    tiles = tiles_of("forward", k, layout)
    out = v.new_empty(layout.batch, layout.queries, layout.heads, layout.columns)
    log_sums = v.new_empty(layout.batch, layout.heads, layout.queries, dtype=torch.float32)
    blocks = triton.cdiv(layout.queries, tiles.block)
    launch(
        forward_kernel,
        (blocks, layout.batch * layout.heads, triton.cdiv(layout.columns, tiles.width)),
        content_q=content_q,
        position_q=position_q,
        k=k,
        v=v,
        rel_k=rel_k,
        out=out,
        log_sums=log_sums,
        scale=scale,
        **shape_arguments(layout, tiles, k.dtype),
    )
    return out, log_sums
