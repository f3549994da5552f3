"""Relative attention, backward: the weights of each tile again, and their gradients; no atomics."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from longatlas.kernels import launch, processors
from longatlas.kernels.primitives import LOG2E, load_tile, matmul, rounded, row_products, tile_at, tile_mask
from longatlas_plugins.long_term_memory.transformer_xl.kernels.band import distance_products, joined, skewed
from longatlas_plugins.long_term_memory.transformer_xl.kernels.forward import farthest_tile, visible
from longatlas_plugins.long_term_memory.transformer_xl.kernels.layout import (
    RUNTIME,
    Layout,
    shape_arguments,
    tiles_of,
)


@triton.jit
def weights_of(scores, log_sum, seen, scale):
    """exp2 of the scores less the logarithm of the row's sum; 0 where nothing is seen."""
    exponent = tl.where(seen, scores * (scale * LOG2E) - log_sum[:, None], 0.0)
    return tl.where(seen, tl.exp2(exponent), 0.0)


@triton.jit
def tile_products(
    content_q, k, grad, v, at_query, heads, head, row, inside, at_key, column, in_keys,
    FEATURES: tl.constexpr, COLUMNS: tl.constexpr, PART: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(q + u)·k and do·v of a tile."""
    scores = row_products(
        content_q,
        at_query,
        heads,
        head,
        row,
        inside,
        k,
        at_key,
        heads,
        head,
        column,
        in_keys,
        FEATURES,
        PART,
        PRECISION,
    )
    towards = row_products(
        grad, at_query, heads, head, row, inside, v, at_key, heads, head, column, in_keys, COLUMNS, PART, PRECISION
    )
    return scores, towards


@triton.jit(do_not_specialize=RUNTIME)
def query_gradient_kernel(
    content_q, position_q, k, v, rel_k, grad, log_sums, pulls, grad_content, grad_position, clamped, scale,
    queries, keys, heads, reach, clamp,
    FEATURES: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr, PART: tl.constexpr,
    DERIVED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A block of queries, WIDTH features: gradients of q + u and q + v, and of the scores beyond clamp_len, summed."""
    head, batch = (tl.program_id(1) % heads).to(tl.int64), (tl.program_id(1) // heads).to(tl.int64)
    first = tl.program_id(0) * BLOCK
    row, column = tl.arange(0, BLOCK), tl.arange(0, BLOCK)
    features = tl.program_id(2) * WIDTH + tl.arange(0, WIDTH)
    inside = first + row < queries
    at_query = batch * queries + first
    at_rows = (batch * heads + head) * queries + first + row
    memory = keys - queries
    last = tl.minimum(clamp, reach - 1)
    log_sum = tl.load(log_sums + at_rows, mask=inside, other=0.0)
    pull = tl.load(pulls + at_rows, mask=inside, other=0.0)
    farthest = farthest_tile(first, memory, reach, BLOCK)

    content_total = tl.zeros([BLOCK, WIDTH], tl.float32)
    position_total = tl.zeros([BLOCK, WIDTH], tl.float32)
    beyond = tl.zeros([BLOCK], tl.float32)
    carried = tl.zeros([BLOCK, BLOCK], tl.float32)
    upper = distance_products(
        position_q,
        at_query,
        heads,
        head,
        row,
        inside,
        rel_k,
        farthest * BLOCK + column,
        last,
        FEATURES,
        PART,
        PRECISION,
    )
    for index in range(farthest + 1):
        tile = farthest - index
        key = first + memory - tile * BLOCK
        in_keys = (key + column >= 0) & (key + column < keys)
        at_key = batch * keys + key
        lower = distance_products(
            position_q, at_query, heads, head, row, inside, rel_k, (tile - 1) * BLOCK + column, last,
            FEATURES, PART, PRECISION,
        )  # fmt: skip
        scores, towards = tile_products(
            content_q, k, grad, v, at_query, heads, head, row, inside, at_key, column, in_keys,
            FEATURES, COLUMNS, PART, PRECISION,
        )  # fmt: skip
        scores += skewed(joined(upper, lower, tile * BLOCK, BLOCK), tile * BLOCK, BLOCK)
        seen = visible(row, column, tile * BLOCK, key, inside, keys, reach)
        slopes = weights_of(scores, log_sum, seen, scale) * (towards - pull[:, None]) * scale
        block_k = load_tile(k, at_key, heads, head, column, in_keys, features, FEATURES, FEATURES % WIDTH != 0)
        content_total = matmul(rounded(slopes, DERIVED), block_k.to(DERIVED), content_total, PRECISION)
        apart = (tile * BLOCK + row)[:, None] - column[None, :]
        beyond += tl.sum(tl.where(apart >= clamp, slopes, 0.0), 1)
        # Distances tile * BLOCK ...: the upper part of this tile and the lower part of the one before.
        by_distance = skewed(slopes, tile * BLOCK, BLOCK)
        carried = joined(carried + by_distance, carried, tile * BLOCK, BLOCK)
        distance = tile * BLOCK + column
        rows = tl.minimum(distance, last).to(tl.int64)
        block_r = load_tile(rel_k, 0, heads, head, rows, column >= 0, features, FEATURES, FEATURES % WIDTH != 0)
        position_total = matmul(rounded(carried, DERIVED), block_r.to(DERIVED), position_total, PRECISION)
        carried = joined(tl.zeros([BLOCK, BLOCK], tl.float32), by_distance, tile * BLOCK, BLOCK)
        upper = lower
    mask = tile_mask(inside, features, FEATURES, FEATURES % WIDTH != 0)
    at = tile_at(grad_content, at_query, heads, head, row, features, FEATURES)
    tl.store(at, rounded(content_total, grad_content.dtype.element_ty), mask=mask)
    at = tile_at(grad_position, at_query, heads, head, row, features, FEATURES)
    tl.store(at, rounded(position_total, grad_position.dtype.element_ty), mask=mask)
    if tl.program_id(2) == 0:
        tl.store(clamped + at_rows, beyond, mask=inside)


@triton.jit(do_not_specialize=RUNTIME)
def key_gradient_kernel(
    content_q, position_q, k, v, rel_k, grad, log_sums, pulls, grad_k, grad_v, scale,
    queries, keys, heads, reach, clamp,
    FEATURES: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr, PART: tl.constexpr,
    DERIVED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A block of keys of one head: WIDTH features of k's gradient and WIDTH columns of v's."""
    head, batch = (tl.program_id(1) % heads).to(tl.int64), (tl.program_id(1) // heads).to(tl.int64)
    memory = keys - queries
    last = tl.minimum(clamp, reach - 1)
    # Blocks of keys lie as far from the first query as a whole number of blocks; the first may begin before key 0.
    aligned = memory % BLOCK
    key = aligned + (tl.program_id(0) - tl.where(aligned > 0, 1, 0)) * BLOCK
    row, column = tl.arange(0, BLOCK), tl.arange(0, BLOCK)
    width = tl.program_id(2) * WIDTH + tl.arange(0, WIDTH)
    in_keys = (key + column >= 0) & (key + column < keys)
    at_key = batch * keys + key
    key_total = tl.zeros([BLOCK, WIDTH], tl.float32)
    value_total = tl.zeros([BLOCK, WIDTH], tl.float32)
    nearest = tl.maximum((memory - key) // BLOCK, 0)
    farthest = tl.minimum((queries - 1 + memory - key) // BLOCK, (reach + BLOCK - 2) // BLOCK)
    for tile in range(nearest, farthest + 1):
        first = key - memory + tile * BLOCK
        inside = (first + row < queries) & (first + row >= 0)
        at_query = batch * queries + first
        at_rows = (batch * heads + head) * queries + first + row
        log_sum = tl.load(log_sums + at_rows, mask=inside, other=0.0)
        pull = tl.load(pulls + at_rows, mask=inside, other=0.0)
        scores, towards = tile_products(
            content_q, k, grad, v, at_query, heads, head, row, inside, at_key, column, in_keys,
            FEATURES, COLUMNS, PART, PRECISION,
        )  # fmt: skip
        upper = distance_products(
            position_q,
            at_query,
            heads,
            head,
            row,
            inside,
            rel_k,
            tile * BLOCK + column,
            last,
            FEATURES,
            PART,
            PRECISION,
        )
        lower = distance_products(
            position_q, at_query, heads, head, row, inside, rel_k, (tile - 1) * BLOCK + column, last,
            FEATURES, PART, PRECISION,
        )  # fmt: skip
        scores += skewed(joined(upper, lower, tile * BLOCK, BLOCK), tile * BLOCK, BLOCK)
        seen = visible(row, column, tile * BLOCK, key, inside, keys, reach)
        weights = weights_of(scores, log_sum, seen, scale)
        slopes = weights * (towards - pull[:, None]) * scale
        block_q = load_tile(content_q, at_query, heads, head, row, inside, width, FEATURES, True)
        key_total = matmul(tl.trans(rounded(slopes, DERIVED)), block_q.to(DERIVED), key_total, PRECISION)
        block_do = load_tile(grad, at_query, heads, head, row, inside, width, COLUMNS, True)
        value_total = matmul(tl.trans(rounded(weights, DERIVED)), block_do.to(DERIVED), value_total, PRECISION)
    at = tile_at(grad_k, at_key, heads, head, column, width, FEATURES)
    tl.store(at, rounded(key_total, grad_k.dtype.element_ty), mask=tile_mask(in_keys, width, FEATURES, True))
    at = tile_at(grad_v, at_key, heads, head, column, width, COLUMNS)
    tl.store(at, rounded(value_total, grad_v.dtype.element_ty), mask=tile_mask(in_keys, width, COLUMNS, True))


@triton.jit(do_not_specialize=[*RUNTIME, "batches", "rows", "splits"])
def distance_gradient_kernel(
    content_q, position_q, k, v, rel_k, grad, log_sums, pulls, grad_rel, scale, batches, rows, splits,
    queries, keys, heads, reach, clamp,
    FEATURES: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr, PART: tl.constexpr,
    DERIVED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A block of distances of one head, WIDTH features, over every `splits`th block of queries: gradient of rel_k.

    grad_rel [splits, rows, H, D] fp32. Scores and their gradients are made by key, two tiles that together have each
    distance once, and read by distance.
    """
    tile = tl.program_id(0)
    head, split = (tl.program_id(1) % heads).to(tl.int64), tl.program_id(1) // heads
    row, column = tl.arange(0, BLOCK), tl.arange(0, BLOCK)
    features = tl.program_id(2) * WIDTH + tl.arange(0, WIDTH)
    memory = keys - queries
    last = tl.minimum(clamp, reach - 1)
    distance = tile * BLOCK + column
    blocks = tl.cdiv(queries, BLOCK)
    total = tl.zeros([BLOCK, WIDTH], tl.float32)
    for step in range(split, batches * blocks, splits):
        batch = (step // blocks).to(tl.int64)
        first = step % blocks * BLOCK
        inside = first + row < queries
        at_query = batch * queries + first
        at_rows = (batch * heads + head) * queries + first + row
        key = first + memory - tile * BLOCK
        if key + BLOCK > 0:
            scores, towards = tile_products(
                content_q, k, grad, v, at_query, heads, head, row, inside,
                batch * keys + key, column, (key + column >= 0) & (key + column < keys),
                FEATURES, COLUMNS, PART, PRECISION,
            )  # fmt: skip
            before = key - BLOCK
            farther_scores, farther_towards = tile_products(
                content_q, k, grad, v, at_query, heads, head, row, inside,
                batch * keys + before, column, (before + column >= 0) & (before + column < keys),
                FEATURES, COLUMNS, PART, PRECISION,
            )  # fmt: skip
            scores = skewed(joined(scores, farther_scores, first, BLOCK), first, BLOCK)
            towards = skewed(joined(towards, farther_towards, first, BLOCK), first, BLOCK)
            scores += distance_products(
                position_q, at_query, heads, head, row, inside, rel_k, distance, last, FEATURES, PART, PRECISION
            )
            log_sum = tl.load(log_sums + at_rows, mask=inside, other=0.0)
            pull = tl.load(pulls + at_rows, mask=inside, other=0.0)
            behind = first + row[:, None] + memory - distance[None, :]
            seen = (behind >= 0) & (distance[None, :] < reach) & inside[:, None]
            slopes = weights_of(scores, log_sum, seen, scale) * (towards - pull[:, None]) * scale
            query = load_tile(position_q, at_query, heads, head, row, inside, features, FEATURES, FEATURES % WIDTH != 0)
            total = matmul(tl.trans(rounded(slopes, DERIVED)), query.to(DERIVED), total, PRECISION)
    at = tile_at(grad_rel, split.to(tl.int64) * rows + tile * BLOCK, heads, head, column, features, FEATURES)
    tl.store(at, total, mask=tile_mask(distance < rows, features, FEATURES, FEATURES % WIDTH != 0))


def backward(
    content_q: Tensor,
    position_q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_k: Tensor,
    grad: Tensor,
    out: Tensor,
    log_sums: Tensor,
    scale: float,
    layout: Layout,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q + u, q + v, k, v and rel_k."""
    pulls = torch.einsum("blhe,blhe->bhl", grad.float(), out.float()).contiguous()
    given: dict[str, Any] = {
        "content_q": content_q,
        "position_q": position_q,
        "k": k,
        "v": v,
        "rel_k": rel_k,
        "grad": grad,
        "log_sums": log_sums,
        "pulls": pulls,
        "scale": scale,
    }
    grad_content, grad_position, clamped = query_gradients(given, layout)
    return grad_content, grad_position, *key_gradients(given, layout), distance_gradients(given, clamped, layout)


def query_gradients(given: dict[str, Any], layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
    """Of q + u and q + v; and of the scores beyond clamp_len, summed over keys [B, H, L]."""
    tiles = tiles_of("query", given["k"], layout)
    outputs = {
        "grad_content": torch.empty_like(given["content_q"]),
        "grad_position": torch.empty_like(given["position_q"]),
        "clamped": torch.empty_like(given["pulls"]),
    }
    grid = (
        triton.cdiv(layout.queries, tiles.block),
        layout.batch * layout.heads,
        triton.cdiv(layout.features, tiles.width),
    )
    launch(query_gradient_kernel, grid, **outputs, **given, **shape_arguments(layout, tiles, given["k"].dtype))
    return outputs["grad_content"], outputs["grad_position"], outputs["clamped"]


def key_gradients(given: dict[str, Any], layout: Layout) -> tuple[Tensor, Tensor]:
    """Of k and v."""
    tiles = tiles_of("key", given["k"], layout)
    grad_k, grad_v = torch.empty_like(given["k"]), torch.empty_like(given["v"])
    aligned = layout.memory % tiles.block
    grid = (
        triton.cdiv(layout.keys - aligned, tiles.block) + (aligned > 0),
        layout.batch * layout.heads,
        triton.cdiv(max(layout.features, layout.columns), tiles.width),
    )
    shape = shape_arguments(layout, tiles, grad_k.dtype)
    launch(key_gradient_kernel, grid, grad_k=grad_k, grad_v=grad_v, **given, **shape)
    return grad_k, grad_v


def distance_gradients(given: dict[str, Any], clamped: Tensor, layout: Layout) -> Tensor:
    """Of rel_k; rows that no distance uses get zero."""
    rel_k, position_q = given["rel_k"], given["position_q"]
    tiles = tiles_of("distance", given["k"], layout)
    rows = layout.clamp  # those that stand for one distance
    blocks = triton.cdiv(rows, tiles.block)
    steps = layout.batch * triton.cdiv(layout.queries, tiles.block)
    splits = max(1, min(steps, triton.cdiv(2 * processors(rel_k.device), max(1, blocks * layout.heads))))
    partial = rel_k.new_empty(splits, rows, layout.heads, layout.features, dtype=torch.float32)
    launch(
        distance_gradient_kernel,
        (blocks, layout.heads * splits, triton.cdiv(layout.features, tiles.width)),
        grad_rel=partial,
        batches=layout.batch,
        rows=rows,
        splits=splits,
        **given,
        **shape_arguments(layout, tiles, rel_k.dtype),
    )
    found = torch.zeros_like(rel_k)
    found[:rows] = partial.sum(0)
    if rows < layout.reach:
        # The row that all distances from clamp_len on share.
        found[rows] = torch.einsum("bhl,blhd->hd", clamped, position_q.float()).to(found.dtype)
    return found
