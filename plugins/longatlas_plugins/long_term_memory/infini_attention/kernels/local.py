"""Attention inside segments (eq 2), blended with what the memory says (eq 3, eq 6): one pass, one store."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from longatlas.kernels import launch, padded
from longatlas.kernels.primitives import LOG2E, load_tile, matmul, rounded, row_products, store_tile
from longatlas_plugins.long_term_memory.infini_attention.kernels.layout import (
    RUNTIME,
    Layout,
    local_tiles,
    shape_arguments,
)
from longatlas_plugins.long_term_memory.infini_attention.kernels.memory import features_of, inverse_of


@triton.jit
def memory_tile(memory, state, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """A tile of M of one state [states, D, E], fp32; zero outside."""
    inside = (rows[:, None] < ROWS) & (columns[None, :] < COLUMNS)
    return tl.load(memory + (state * ROWS + rows[:, None]) * COLUMNS + columns[None, :], mask=inside, other=0.0)


@triton.jit
def read_memory(
    x, first, heads, head, rows, inside, memory, norms, state, columns,
    FEATURES: tl.constexpr, COLUMNS: tl.constexpr, PART: tl.constexpr, DERIVED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """σ(x) M, for some columns of M, and σ(x) z (eq 3)."""
    total = tl.zeros([rows.shape[0], columns.shape[0]], tl.float32)
    normaliser = tl.zeros([rows.shape[0]], tl.float32)
    for start in range(0, FEATURES, PART):
        features = start + tl.arange(0, PART)
        block = features_of(x, first, heads, head, rows, inside, features, FEATURES, PART)
        norm = tl.load(norms + state * FEATURES + features, mask=features < FEATURES, other=0.0)
        normaliser += tl.sum(block * norm[None, :], 1)
        tile = memory_tile(memory, state, features, columns, FEATURES, COLUMNS)
        total = matmul(rounded(block, DERIVED), rounded(tile, DERIVED), total, PRECISION)
    return total, normaliser


@triton.jit(do_not_specialize=RUNTIME)
def local_kernel(
    q, k, v, q_raw, gate, memory, norms, out, local_out, log_sums, scale,
    queries, keys, segments, segment_len, first_segment, heads, groups, first_block, each,
    FEATURES: tl.constexpr, COLUMNS: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr,
    PART: tl.constexpr, GATED: tl.constexpr, DERIVED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A block of queries of one segment and head, and WIDTH columns of the output.

    q, q_raw, out, local_out [B, T, H, D|E]; k, v [B, keys, Hkv, D|E]; memory, norms [B, Hkv, segments, D(, E)]
    """
    block = first_block + tl.program_id(0)
    segment = block // each
    head, batch = (tl.program_id(1) % heads).to(tl.int64), (tl.program_id(1) // heads).to(tl.int64)
    kv_heads, kv_head = heads // groups, head // groups
    row, column = tl.arange(0, QUERIES), tl.arange(0, KEYS)
    columns = tl.program_id(2) * WIDTH + tl.arange(0, WIDTH)
    start = segment.to(tl.int64) * segment_len
    first = start + (block % each) * QUERIES  # place of the first query among the keys
    end = tl.minimum(start + segment_len, keys)
    begun = keys - queries
    at_query = batch * queries + first - begun
    inside = (first + row < end) & (first + row >= begun)

    running_max = tl.full([QUERIES], -float("inf"), tl.float32)
    running_sum = tl.zeros([QUERIES], tl.float32)
    total = tl.zeros([QUERIES, WIDTH], tl.float32)
    if PART >= FEATURES:
        size = tl.arange(0, PART)
        query = load_tile(q, at_query, heads, head, row, inside, size, FEATURES, FEATURES % PART != 0)
    last = tl.minimum(first + QUERIES, end)
    for begin in range(start, last, KEYS):
        at_key = batch * keys + begin
        in_keys = column < last - begin
        if PART >= FEATURES:
            key = load_tile(k, at_key, kv_heads, kv_head, column, in_keys, size, FEATURES, FEATURES % PART != 0)
            scores = matmul(query, tl.trans(key), PRECISION=PRECISION)
        else:
            scores = row_products(
                q, at_query, heads, head, row, inside, k, at_key, kv_heads, kv_head, column, in_keys,
                FEATURES, PART, PRECISION,
            )  # fmt: skip
        offset = (first - begin).to(tl.int32)
        seen = (row[:, None] + offset >= column[None, :]) & in_keys[None, :]
        scores = tl.where(seen, scores * (scale * LOG2E), -float("inf"))
        new_max = tl.maximum(running_max, tl.max(scores, 1))
        weights = tl.exp2(scores - new_max[:, None])
        kept = tl.exp2(running_max - new_max)
        running_sum = running_sum * kept + tl.sum(weights, 1)
        value = load_tile(v, at_key, kv_heads, kv_head, column, in_keys, columns, COLUMNS, COLUMNS % WIDTH != 0)
        total = matmul(rounded(weights, v.dtype.element_ty), value, total * kept[:, None], PRECISION)
        running_max = new_max
    output = total / running_sum[:, None]
    padded_columns: tl.constexpr = COLUMNS % WIDTH != 0
    if local_out is not None:
        store_tile(local_out, output, at_query, heads, head, row, inside, columns, COLUMNS, padded_columns)
        if tl.program_id(2) == 0:
            at_sums = (batch * heads + head) * queries + first - begun + row
            tl.store(log_sums + at_sums, running_max + tl.log2(running_sum), mask=inside)
    share = tl.sigmoid(tl.load(gate + head).to(tl.float32))
    if segment + first_segment > 0:
        state = (batch * kv_heads + kv_head) * segments + segment
        read, normaliser = read_memory(
            q_raw, at_query, heads, head, row, inside, memory, norms, state, columns,
            FEATURES, COLUMNS, PART, DERIVED, PRECISION,
        )  # fmt: skip
        output = share * read * inverse_of(normaliser)[:, None] + (1 - share) * output  # eq (6)
    elif GATED:
        output = (1 - share) * output
    store_tile(out, output, at_query, heads, head, row, inside, columns, COLUMNS, padded_columns)


def local_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_raw: Tensor,
    gate: Tensor,
    memory: Tensor,
    norms: Tensor,
    layout: Layout,
    *,
    gated: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """o; with `keep` also what the backward pass needs, A_dot [B, T, H, E] and its log2 sums [B, H, T], else empty."""
    tiles = local_tiles(q.dtype, layout, q.device)
    out = v.new_empty(layout.batch, layout.queries, layout.heads, layout.columns)
    local = torch.empty_like(out) if keep else out.new_empty(0)
    log_sums = out.new_empty((layout.batch, layout.heads, layout.queries) if keep else 0, dtype=torch.float32)
    first_block, blocks, each = layout.blocks(tiles.queries, layout.begun)
    width = min(tiles.columns, padded(layout.columns))
    launch(
        local_kernel,
        (blocks if layout.queries else 0, layout.batch * layout.heads, triton.cdiv(layout.columns, width)),
        q=q,
        k=k,
        v=v,
        q_raw=q_raw,
        gate=gate,
        memory=memory,
        norms=norms,
        out=out,
        local_out=local if keep else None,
        log_sums=log_sums if keep else None,
        scale=layout.features**-0.5,
        first_block=first_block,
        each=each,
        QUERIES=tiles.queries,
        KEYS=tiles.keys,
        WIDTH=width,
        PART=tiles.part,
        GATED=gated,
        **shape_arguments(layout, tiles, q.dtype),
    )
    return out, local, log_sums
