"""Gradients of local attention and of what is read from the memory (eq 2, 3, 6)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from longatlas.kernels import launch, padded
from longatlas.kernels.primitives import LOG2E, load_tile, matmul, rounded, row_products, store_tile
from longatlas_plugins.long_term_memory.infini_attention.kernels.layout import (
    RUNTIME,
    Layout,
    memory_tiles,
    shape_arguments,
)
from longatlas_plugins.long_term_memory.infini_attention.kernels.local import (
    memory_tile,
    read_memory,
)
from longatlas_plugins.long_term_memory.infini_attention.kernels.memory import FLOOR, inverse_of


class RowGradients(NamedTuple):
    """Per query, [B, H, T] fp32.

    pulls     do·A_dot
    inverses  g / n, 0 where nothing is read: the gradient of N = σ(q) M is that times do
    norms     gradient of n = σ(q) z
    gates     gradient of β
    """

    pulls: Tensor
    inverses: Tensor
    norms: Tensor
    gates: Tensor


@triton.jit(do_not_specialize=RUNTIME)
def read_backward_kernel(
    grad, local, q_raw, gate, memory, norms, grad_q, pulls, inverses, grad_norms, grad_gates,
    queries, keys, segments, segment_len, first_segment, heads, groups, first_block, each,
    FEATURES: tl.constexpr, COLUMNS: tl.constexpr, QUERIES: tl.constexpr, PART: tl.constexpr,
    GATED: tl.constexpr, DERIVED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A block of queries of one head: RowGradients, and the gradient of the raw q that reads the memory."""
    block = first_block + tl.program_id(0)
    segment = block // each
    head, batch = (tl.program_id(1) % heads).to(tl.int64), (tl.program_id(1) // heads).to(tl.int64)
    state = (batch * (heads // groups) + head // groups) * segments + segment
    row = tl.arange(0, QUERIES)
    start = segment.to(tl.int64) * segment_len
    first = start + (block % each) * QUERIES
    begun = keys - queries
    inside = (first + row < tl.minimum(start + segment_len, keys)) & (first + row >= begun)
    at_query = batch * queries + first - begun
    reads = segment + first_segment > 0
    share = tl.sigmoid(tl.load(gate + head).to(tl.float32))

    pull = tl.zeros([QUERIES], tl.float32)
    read_pull = tl.zeros([QUERIES], tl.float32)
    normaliser = tl.zeros([QUERIES], tl.float32)
    for begin in range(0, COLUMNS, PART):
        columns = begin + tl.arange(0, PART)
        do = load_tile(grad, at_query, heads, head, row, inside, columns, COLUMNS, COLUMNS % PART != 0).to(tl.float32)
        a = load_tile(local, at_query, heads, head, row, inside, columns, COLUMNS, COLUMNS % PART != 0)
        pull += tl.sum(do * a.to(tl.float32), 1)
        if reads:
            read, normaliser = read_memory(
                q_raw, at_query, heads, head, row, inside, memory, norms, state, columns,
                FEATURES, COLUMNS, PART, DERIVED, PRECISION,
            )  # fmt: skip
            read_pull += tl.sum(do * read, 1)
    inverse = tl.where(reads, inverse_of(normaliser) * share, 0.0)
    at_rows = (batch * heads + head) * queries + first - begun + row
    slope = share * (1 - share)
    tl.store(pulls + at_rows, pull, mask=inside)
    if reads:
        read_pull *= inverse_of(normaliser)  # do·A_mem; divided first, because 1 / n^2 may overflow
        grad_norm = tl.where(normaliser > FLOOR, -inverse * read_pull, 0.0)
        grad_gate = (read_pull - pull) * slope
        for begin in range(0, FEATURES, PART):
            features = begin + tl.arange(0, PART)
            slopes = tl.zeros([QUERIES, PART], tl.float32)
            for other in range(0, COLUMNS, PART):
                columns = other + tl.arange(0, PART)
                read_grad = load_tile(grad, at_query, heads, head, row, inside, columns, COLUMNS, COLUMNS % PART != 0)
                read_grad = read_grad.to(tl.float32) * inverse[:, None]
                tile = rounded(memory_tile(memory, state, features, columns, FEATURES, COLUMNS), DERIVED)
                slopes = matmul(rounded(read_grad, DERIVED), tl.trans(tile), slopes, PRECISION)
            norm = tl.load(norms + state * FEATURES + features, mask=features < FEATURES, other=0.0)
            slopes += grad_norm[:, None] * norm[None, :]
            store_through_sigma(grad_q, q_raw, slopes, at_query, heads, head, row, inside, features, FEATURES, PART)
    else:
        grad_norm = tl.zeros([QUERIES], tl.float32)
        grad_gate = -pull * slope if GATED else tl.zeros([QUERIES], tl.float32)
        for begin in range(0, FEATURES, PART):
            features = begin + tl.arange(0, PART)
            nothing = tl.zeros([QUERIES, PART], tl.float32)
            store_through_sigma(grad_q, q_raw, nothing, at_query, heads, head, row, inside, features, FEATURES, PART)
    tl.store(inverses + at_rows, inverse, mask=inside)
    tl.store(grad_norms + at_rows, grad_norm, mask=inside)
    tl.store(grad_gates + at_rows, grad_gate, mask=inside)


@triton.jit
def store_through_sigma(
    grad, x, slopes, first, heads, head, rows, inside, columns, SIZE: tl.constexpr, PART: tl.constexpr
):
    """The gradient of x from that of σ(x): σ'(x) is 1 for x > 0, else exp(x)."""
    value = load_tile(x, first, heads, head, rows, inside, columns, SIZE, SIZE % PART != 0).to(tl.float32)
    slopes *= tl.where(value > 0, 1.0, tl.exp(tl.minimum(value, 0.0)))
    store_tile(grad, slopes, first, heads, head, rows, inside, columns, SIZE, SIZE % PART != 0)


@triton.jit
def score_gradients(
    q, k, v, grad, log_sums, pulls, share, scale,
    at_query, heads, head, row, in_queries, at_rows, at_key, kv_heads, kv_head, column, in_keys, offset,
    FEATURES: tl.constexpr, COLUMNS: tl.constexpr, PART: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The weights of a block of queries and keys again, and the gradient of their scores before the scale."""
    scores = row_products(
        q, at_query, heads, head, row, in_queries, k, at_key, kv_heads, kv_head, column, in_keys,
        FEATURES, PART, PRECISION,
    )  # fmt: skip
    sums = tl.load(log_sums + at_rows, mask=in_queries, other=0.0)
    seen = (row[:, None] + offset >= column[None, :]) & in_queries[:, None] & in_keys[None, :]
    weights = tl.where(seen, tl.exp2(tl.where(seen, scores * (scale * LOG2E) - sums[:, None], 0.0)), 0.0)
    towards = row_products(
        grad, at_query, heads, head, row, in_queries, v, at_key, kv_heads, kv_head, column, in_keys,
        COLUMNS, PART, PRECISION,
    )  # fmt: skip
    pull = tl.load(pulls + at_rows, mask=in_queries, other=0.0)
    return weights, weights * (towards - pull[:, None]) * (share * scale)


@triton.jit(do_not_specialize=RUNTIME)
def query_gradient_kernel(
    q, k, v, grad, gate, log_sums, pulls, grad_q, scale,
    queries, keys, segments, segment_len, first_segment, heads, groups, first_block, each,
    FEATURES: tl.constexpr, COLUMNS: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr,
    PART: tl.constexpr, GATED: tl.constexpr, DERIVED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A block of queries and WIDTH of their features: the gradient of the rotated q."""
    block = first_block + tl.program_id(0)
    segment = block // each
    head, batch = (tl.program_id(1) % heads).to(tl.int64), (tl.program_id(1) // heads).to(tl.int64)
    kv_heads, kv_head = heads // groups, head // groups
    row, column = tl.arange(0, QUERIES), tl.arange(0, KEYS)
    features = tl.program_id(2) * WIDTH + tl.arange(0, WIDTH)
    start = segment.to(tl.int64) * segment_len
    first = start + (block % each) * QUERIES
    end = tl.minimum(start + segment_len, keys)
    begun = keys - queries
    inside = (first + row < end) & (first + row >= begun)
    at_query = batch * queries + first - begun
    at_rows = (batch * heads + head) * queries + first - begun + row
    share = local_share(gate, head, segment + first_segment, GATED)
    total = tl.zeros([QUERIES, WIDTH], tl.float32)
    last = tl.minimum(first + QUERIES, end)
    for begin in range(start, last, KEYS):
        at_key = batch * keys + begin
        in_keys = column < last - begin
        _, slopes = score_gradients(
            q, k, v, grad, log_sums, pulls, share, scale, at_query, heads, head, row, inside, at_rows,
            at_key, kv_heads, kv_head, column, in_keys, (first - begin).to(tl.int32),
            FEATURES, COLUMNS, PART, PRECISION,
        )  # fmt: skip
        key = load_tile(k, at_key, kv_heads, kv_head, column, in_keys, features, FEATURES, FEATURES % WIDTH != 0)
        total = matmul(rounded(slopes, DERIVED), key.to(DERIVED), total, PRECISION)
    store_tile(grad_q, total, at_query, heads, head, row, inside, features, FEATURES, FEATURES % WIDTH != 0)


@triton.jit
def local_share(gate, head, segment, GATED: tl.constexpr):
    """The part of local attention in the output: 1 - g, or 1 in a first segment that is not gated."""
    share = 1 - tl.sigmoid(tl.load(gate + head).to(tl.float32))
    if not GATED:
        share = tl.where(segment > 0, share, 1.0)
    return share


@triton.jit(do_not_specialize=RUNTIME)
def key_gradient_kernel(
    q, k, v, grad, gate, log_sums, pulls, grad_k, grad_v, scale,
    queries, keys, segments, segment_len, first_segment, heads, groups, first_block, each,
    FEATURES: tl.constexpr, COLUMNS: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr,
    PART: tl.constexpr, GATED: tl.constexpr, DERIVED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A block of keys of one segment and kv head: WIDTH features of the rotated k's gradient, WIDTH columns of v's."""
    block = tl.program_id(0)
    segment = block // each
    kv_heads = heads // groups
    kv_head, batch = (tl.program_id(1) % kv_heads).to(tl.int64), (tl.program_id(1) // kv_heads).to(tl.int64)
    row, column = tl.arange(0, QUERIES), tl.arange(0, KEYS)
    width = tl.program_id(2) * WIDTH + tl.arange(0, WIDTH)
    start = segment.to(tl.int64) * segment_len
    begin = start + (block % each) * KEYS
    end = tl.minimum(start + segment_len, keys)
    begun = keys - queries
    in_keys = column < end - begin
    at_key = batch * keys + begin
    key_total = tl.zeros([KEYS, WIDTH], tl.float32)
    value_total = tl.zeros([KEYS, WIDTH], tl.float32)
    for member in range(groups):
        head = kv_head * groups + member
        share = local_share(gate, head, segment + first_segment, GATED)
        for first in range(tl.maximum(begin, begun), end, QUERIES):
            inside = row < end - first
            at_query = batch * queries + first - begun
            at_rows = (batch * heads + head) * queries + first - begun + row
            weights, slopes = score_gradients(
                q, k, v, grad, log_sums, pulls, share, scale, at_query, heads, head, row, inside, at_rows,
                at_key, kv_heads, kv_head, column, in_keys, (first - begin).to(tl.int32),
                FEATURES, COLUMNS, PART, PRECISION,
            )  # fmt: skip
            query = load_tile(q, at_query, heads, head, row, inside, width, FEATURES, FEATURES % WIDTH != 0)
            key_total = matmul(tl.trans(rounded(slopes, DERIVED)), query.to(DERIVED), key_total, PRECISION)
            do = load_tile(grad, at_query, heads, head, row, inside, width, COLUMNS, COLUMNS % WIDTH != 0)
            value_total = matmul(tl.trans(rounded(weights * share, DERIVED)), do.to(DERIVED), value_total, PRECISION)
    store_tile(grad_k, key_total, at_key, kv_heads, kv_head, column, in_keys, width, FEATURES, True)
    store_tile(grad_v, value_total, at_key, kv_heads, kv_head, column, in_keys, width, COLUMNS, True)


def read_backward(
    grad: Tensor,
    local: Tensor,
    q_raw: Tensor,
    gate: Tensor,
    memory: Tensor,
    norms: Tensor,
    layout: Layout,
    *,
    gated: bool,
) -> tuple[Tensor, RowGradients]:
    """The gradient of the raw q, and what every later kernel needs of each query."""
    rows = RowGradients(
        *(grad.new_empty(layout.batch, layout.heads, layout.queries, dtype=torch.float32) for _ in range(4))
    )
    grad_q = torch.empty_like(q_raw)
    tiles = memory_tiles(grad.dtype, layout, grad.device)
    first_block, blocks, each = layout.blocks(tiles.queries, layout.begun)
    launch(
        read_backward_kernel,
        (blocks if layout.queries else 0, layout.batch * layout.heads),
        grad=grad,
        local=local,
        q_raw=q_raw,
        gate=gate,
        memory=memory,
        norms=norms,
        grad_q=grad_q,
        pulls=rows.pulls,
        inverses=rows.inverses,
        grad_norms=rows.norms,
        grad_gates=rows.gates,
        QUERIES=tiles.queries,
        PART=tiles.part,
        GATED=gated,
        **shape_arguments(layout, tiles, grad.dtype),
        first_block=first_block,
        each=each,
    )
    return grad_q, rows


def local_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grad: Tensor,
    gate: Tensor,
    log_sums: Tensor,
    pulls: Tensor,
    layout: Layout,
    *,
    gated: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the rotated q and k, in their dtype, and local attention's part of v's in fp32."""
    grad_q, grad_k = torch.empty_like(q), torch.empty_like(k)
    grad_v = torch.empty_like(v, dtype=torch.float32)
    tiles = memory_tiles(q.dtype, layout, q.device)
    shared: dict[str, Any] = dict(
        q=q, k=k, v=v, grad=grad, gate=gate, log_sums=log_sums, pulls=pulls, scale=layout.features**-0.5,
        QUERIES=tiles.queries, KEYS=tiles.keys, PART=tiles.part, GATED=gated,
        **shape_arguments(layout, tiles, q.dtype),
    )  # fmt: skip
    width = min(tiles.columns, padded(layout.features))
    first_block, blocks, each = layout.blocks(tiles.queries, layout.begun)
    grid = (blocks if layout.queries else 0, layout.batch * layout.heads, triton.cdiv(layout.features, width))
    launch(query_gradient_kernel, grid, grad_q=grad_q, WIDTH=width, first_block=first_block, each=each, **shared)
    width = min(tiles.columns, padded(max(layout.features, layout.columns)))
    _, blocks, each = layout.blocks(tiles.keys)
    parts = triton.cdiv(max(layout.features, layout.columns), width)
    launch(
        key_gradient_kernel,
        (blocks if layout.keys else 0, layout.batch * layout.kv_heads, parts),
        grad_k=grad_k,
        grad_v=grad_v,
        WIDTH=width,
        first_block=0,
        each=each,
        **shared,
    )
    return grad_q, grad_k, grad_v
