"""Relative attention for a few queries and a long memory: the keys are split over programs, then put together."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from longatlas.kernels import launch, padded, processors
from longatlas.kernels.primitives import LOG2E, load_tile, rounded
from longatlas_plugins.long_term_memory.transformer_xl.kernels.layout import RUNTIME, Layout

FEW_QUERIES = 16  # from there on tiles of queries pay
LEAST = 128  # keys per program


@triton.jit
def load_steps(tensor, first, step, head, rows, inside, columns, SIZE: tl.constexpr):
    """[rows, columns] of one head, from token `first` on, tokens `step` elements apart; zero outside."""
    at = tensor + first * step + head * SIZE + rows[:, None] * step + columns[None, :]
    return tl.load(at, mask=inside[:, None] & (columns[None, :] < SIZE), other=0.0)


@triton.jit(do_not_specialize=[*RUNTIME, "splits", "length", "groups"])
def decode_kernel(
    content_q, position_q, k, v, rel_k, outs, maxima, sums, scale, splits, length, groups,
    key_batch, key_step, value_batch, value_step,
    queries, keys, heads, reach, clamp,
    FEATURES: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One query, head and stretch of `length` keys: their weighted sum, its base-2 maximum and the sum of weights.

    k, v [B, K, Hkv, D|E] with key_step and value_step elements from token to token, key_batch and value_batch from
    sequence to sequence
    outs [B, L, H, splits, E], maxima, sums [B, L, H, splits], fp32
    """
    query = (tl.program_id(0) // heads).to(tl.int64)  # of all sequences
    head = (tl.program_id(0) % heads).to(tl.int64)
    kv_head = head // groups
    split = tl.program_id(1)
    batch = query // queries
    place = keys - queries + query % queries  # of the query among the keys
    features, columns, column = tl.arange(0, ROWS), tl.arange(0, WIDTH), tl.arange(0, BLOCK)
    at_query = (query * heads + head) * FEATURES + features
    content = tl.load(content_q + at_query, mask=features < FEATURES, other=0.0).to(tl.float32)
    position = tl.load(position_q + at_query, mask=features < FEATURES, other=0.0).to(tl.float32)
    begin = tl.maximum(place + 1 - reach, 0) + split * length
    end = tl.minimum(begin + length, place + 1)
    last = tl.minimum(clamp, reach - 1)

    running_max = -float("inf")
    running_sum = 0.0
    total = tl.zeros([WIDTH], tl.float32)
    for index in range(tl.cdiv(end - begin, BLOCK)):
        key = begin + index * BLOCK
        inside = column < end - key
        distance = tl.minimum(tl.maximum(place - key - column, 0), last).to(tl.int64)
        block_k = load_steps(k + batch * key_batch, key, key_step, kv_head, column, inside, features, FEATURES)
        block_r = load_tile(rel_k, 0, heads, head, distance, inside, features, FEATURES, FEATURES < ROWS)
        products = block_k.to(tl.float32) * content[None, :] + block_r.to(tl.float32) * position[None, :]
        scores = tl.where(inside, tl.sum(products, 1) * (scale * LOG2E), -float("inf"))
        new_max = tl.maximum(running_max, tl.max(scores, 0))
        weights = tl.exp2(scores - new_max)
        kept = tl.exp2(running_max - new_max)
        block_v = load_steps(v + batch * value_batch, key, value_step, kv_head, column, inside, columns, COLUMNS)
        total = total * kept + tl.sum(weights[:, None] * block_v.to(tl.float32), 0)
        running_sum = running_sum * kept + tl.sum(weights, 0)
        running_max = new_max
    at = (query * heads + head) * splits + split
    tl.store(outs + at * COLUMNS + columns, total, mask=columns < COLUMNS)
    tl.store(maxima + at, running_max)
    tl.store(sums + at, running_sum)


@triton.jit(do_not_specialize=["splits"])
def combine_kernel(outs, maxima, sums, out, splits, COLUMNS: tl.constexpr, WIDTH: tl.constexpr):
    """One query and head: the splits weighted by their sums; out [B, L, H, E]."""
    at = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, WIDTH)
    highest = -float("inf")
    for split in range(splits):
        highest = tl.maximum(highest, tl.load(maxima + at * splits + split))
    weight = 0.0
    total = tl.zeros([WIDTH], tl.float32)
    for split in range(splits):
        kept = tl.exp2(tl.load(maxima + at * splits + split) - highest)
        weight += kept * tl.load(sums + at * splits + split)
        part = tl.load(outs + (at * splits + split) * COLUMNS + columns, mask=columns < COLUMNS, other=0.0)
        total += kept * part
    tl.store(out + at * COLUMNS + columns, rounded(total / weight, out.dtype.element_ty), mask=columns < COLUMNS)


def decode(
    content_q: Tensor, position_q: Tensor, k: Tensor, v: Tensor, rel_k: Tensor, scale: float, layout: Layout
) -> Tensor:
    """o [B, L, H, E]; k and v may have fewer heads, and other tensors between their tokens."""
    rows = layout.batch * layout.queries * layout.heads
    visible = min(layout.keys, layout.reach)
    splits = max(1, min(triton.cdiv(visible, LEAST), triton.cdiv(4 * processors(k.device), max(1, rows))))
    length = triton.cdiv(visible, splits)
    lead = (layout.batch, layout.queries, layout.heads, splits)
    outs = v.new_empty(*lead, layout.columns, dtype=torch.float32)
    maxima, sums = (v.new_empty(lead, dtype=torch.float32) for _ in range(2))
    width = padded(layout.columns)
    launch(
        decode_kernel,
        (rows, splits),
        content_q=content_q,
        position_q=position_q,
        k=k,
        v=v,
        rel_k=rel_k,
        outs=outs,
        maxima=maxima,
        sums=sums,
        scale=scale,
        splits=splits,
        length=length,
        groups=layout.heads // k.shape[2],
        key_batch=k.stride(0),
        key_step=k.stride(1),
        value_batch=v.stride(0),
        value_step=v.stride(1),
        queries=layout.queries,
        keys=layout.keys,
        heads=layout.heads,
        reach=layout.reach,
        clamp=layout.clamp,
        FEATURES=layout.features,
        COLUMNS=layout.columns,
        ROWS=padded(layout.features),
        WIDTH=width,
        BLOCK=max(8, 4096 // max(width, padded(layout.features))),
    )
    out = v.new_empty(layout.batch, layout.queries, layout.heads, layout.columns)
    launch(
        combine_kernel,
        (rows,),
        outs=outs,
        maxima=maxima,
        sums=sums,
        out=out,
        splits=splits,
        COLUMNS=layout.columns,
        WIDTH=width,
    )
    return out
