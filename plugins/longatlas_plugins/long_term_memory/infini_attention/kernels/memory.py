"""The compressive memory (arXiv:2404.07143, eq 4 and 5): sums over segments, the state before each, the delta rule."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from longatlas.kernels import launch, padded
from longatlas.kernels.primitives import load_tile, matmul, rounded, tile_mask
from longatlas_plugins.long_term_memory.infini_attention.kernels.layout import (
    Layout,
    delta_tiles,
    memory_tiles,
    numeric_arguments,
)
from longatlas_plugins.long_term_memory.infini_attention.state import NORMALISER_FLOOR

ELEMENTS = 1024  # of a state, per program of the running sum
FLOOR = tl.constexpr(NORMALISER_FLOOR)


@triton.jit
def sigma(x):
    """ELU(x) + 1, without the cancellation of elu(x) + 1 for x far below 0."""
    return tl.where(x > 0, x + 1, tl.exp(tl.minimum(x, 0.0)))


@triton.jit
def features_of(x, first, heads, head, rows, inside, columns, SIZE: tl.constexpr, PART: tl.constexpr):
    """σ of a tile of x, fp32; zero outside, where σ(0) would be 1."""
    block = load_tile(x, first, heads, head, rows, inside, columns, SIZE, SIZE % PART != 0)
    mask = tile_mask(inside, columns, SIZE, SIZE % PART != 0)
    return tl.where(mask, sigma(block.to(tl.float32)), 0.0)


@triton.jit
def inverse_of(normaliser):
    """1 / n; below the floor 1, because what is divided is then as good as zero itself."""
    return 1.0 / tl.where(normaliser > FLOOR, normaliser, 1.0)


@triton.jit(do_not_specialize=["tokens", "segments", "segment_len", "begun", "heads", "kv_heads", "groups"])
def segment_sums_kernel(
    x,
    values,
    weights,
    norm_weights,
    sums,
    norms,
    tokens,
    segments,
    segment_len,
    begun,
    heads,
    kv_heads,
    groups,
    FEATURES: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
    PART: tl.constexpr,
    WIDTH: tl.constexpr,
    DERIVED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One segment, kv head and tile [PART, WIDTH] of Σ σ(x)^T (weights values); norms: Σ norm_weights σ(x)."""
    segment = (tl.program_id(0) % segments).to(tl.int64)
    kv_head = (tl.program_id(0) // segments % kv_heads).to(tl.int64)
    batch = (tl.program_id(0) // segments // kv_heads).to(tl.int64)
    features = tl.program_id(1) * PART + tl.arange(0, PART)
    columns = tl.program_id(2) * WIDTH + tl.arange(0, WIDTH)
    place = tl.arange(0, BLOCK)
    total = tl.zeros([PART, WIDTH], tl.float32)
    norm = tl.zeros([PART], tl.float32)
    first = tl.maximum(segment * segment_len - begun, 0)
    end = tl.minimum((segment + 1) * segment_len - begun, tokens)
    for member in range(groups):
        head = kv_head * groups + member
        for start in range(first, end, BLOCK):
            rows = place < end - start
            block = features_of(x, batch * tokens + start, heads, head, place, rows, features, FEATURES, PART)
            at_rows = (batch * heads + head) * tokens + start + place
            if norm_weights is None:
                norm += tl.sum(block, 0)
            else:
                norm += tl.sum(block * tl.load(norm_weights + at_rows, mask=rows, other=0.0)[:, None], 0)
            if values is not None:
                value = load_tile(
                    values, batch * tokens + start, heads, head, place, rows, columns, COLUMNS, COLUMNS % WIDTH != 0
                )
                if weights is not None:
                    weight = tl.load(weights + at_rows, mask=rows, other=0.0)
                    value = rounded(value.to(tl.float32) * weight[:, None], DERIVED)
                total = matmul(tl.trans(rounded(block, DERIVED)), value.to(DERIVED), total, PRECISION)
    state = (batch * kv_heads + kv_head) * segments + segment
    if values is not None:
        at_state = (state * FEATURES + features[:, None]) * COLUMNS + columns[None, :]
        tl.store(sums + at_state, total, mask=(features[:, None] < FEATURES) & (columns[None, :] < COLUMNS))
    if tl.program_id(2) == 0:
        tl.store(norms + state * FEATURES + features, norm, mask=features < FEATURES)


def segment_sums(
    x: Tensor,
    values: Tensor | None,
    layout: Layout,
    segments: int,
    *,
    weights: Tensor | None = None,
    norm_weights: Tensor | None = None,
) -> tuple[Tensor | None, Tensor]:
    """Σ σ(x)^T (weights values) [B, Hkv, segments, D, E] and Σ norm_weights σ(x) [B, Hkv, segments, D], fp32.

    x [B, tokens, H or Hkv, D], values [B, tokens, H or Hkv, E]; weights, norm_weights [B, H or Hkv, tokens], None = 1.
    The heads of a group are added up.
    """
    batch, tokens, heads, features = x.shape
    sizes = (batch, layout.kv_heads, segments, features)
    sums = None if values is None else x.new_empty(*sizes, layout.columns, dtype=torch.float32)
    norms = x.new_empty(sizes, dtype=torch.float32)
    tiles = memory_tiles(x.dtype, layout, x.device)
    part, width = min(tiles.part, padded(features)), min(tiles.columns, padded(layout.columns))
    launch(
        segment_sums_kernel,
        (
            batch * layout.kv_heads * segments,
            triton.cdiv(features, part),
            1 if values is None else triton.cdiv(layout.columns, width),
        ),
        x=x,
        values=values,
        weights=weights,
        norm_weights=norm_weights,
        sums=sums,
        norms=norms,
        tokens=tokens,
        segments=segments,
        segment_len=layout.segment_len,
        begun=layout.keys - tokens,
        heads=heads,
        kv_heads=layout.kv_heads,
        groups=heads // layout.kv_heads,
        FEATURES=features,
        COLUMNS=layout.columns,
        BLOCK=tiles.keys,
        PART=part,
        WIDTH=width,
        **numeric_arguments(tiles, x.dtype),
    )
    return sums, norms


@triton.jit(do_not_specialize=["count", "added"])
def running_sum_kernel(
    parts, before, start, final, count, added, SIZE: tl.constexpr, BLOCK: tl.constexpr, REVERSE: tl.constexpr
):
    """before[s] = start + Σ of parts before s (after s, when REVERSE); only the first `added` segments have a part."""
    state = tl.program_id(0).to(tl.int64)
    element = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = element < SIZE
    total = tl.load(start + state * SIZE + element, mask=inside, other=0.0)
    for index in range(count):
        segment = count - 1 - index if REVERSE else index
        tl.store(before + (state * count + segment) * SIZE + element, total, mask=inside)
        has_part = element < tl.where(segment < added, SIZE, 0)
        total += tl.load(parts + (state * added + segment) * SIZE + element, mask=has_part, other=0.0)
    tl.store(final + state * SIZE + element, total, mask=inside)


def running_sum(parts: Tensor, start: Tensor, count: int, *, reverse: bool = False) -> tuple[Tensor, Tensor]:
    """States before (after) each segment [B, Hkv, count, ...] and the last; parts [B, Hkv, added, ...]."""
    batch, kv_heads, added = parts.shape[:3]
    size = start[0, 0].numel() if batch * kv_heads else 1
    before = start.new_empty(batch, kv_heads, count, *start.shape[2:])
    final = torch.empty_like(start)
    launch(
        running_sum_kernel,
        (batch * kv_heads, triton.cdiv(size, ELEMENTS)),
        parts=parts,
        before=before,
        start=start,
        final=final,
        count=count,
        added=added,
        SIZE=size,
        BLOCK=ELEMENTS,
        REVERSE=reverse,
    )
    return before, final


@triton.jit(do_not_specialize=["tokens", "segments", "whole", "segment_len", "first_segment", "kv_heads"])
def delta_kernel(
    k,
    v,
    norms,
    parts,
    start,
    before,
    final,
    tokens,
    segments,
    whole,
    segment_len,
    first_segment,
    kv_heads,
    FEATURES: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    REVERSE: tl.constexpr,
    DERIVED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """All segments in order, for one kv head and WIDTH columns of M (eq 5); REVERSE: of M's gradient G.

    M_s = M_{s-1} + σ(K)^T (V - σ(K) M_{s-1} / n);   G_{s-1} = G_s - σ(K)^T (σ(K) G_s / n) + parts_s
    """
    state = tl.program_id(0).to(tl.int64)
    kv_head, batch = state % kv_heads, state // kv_heads
    features = tl.arange(0, ROWS)
    columns = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    place = tl.arange(0, BLOCK)
    inside = (features[:, None] < FEATURES) & (columns[None, :] < COLUMNS)
    at = features[:, None] * COLUMNS + columns[None, :]
    size: tl.constexpr = FEATURES * COLUMNS
    memory = tl.load(start + state * size + at, mask=inside, other=0.0)
    for index in range(segments):
        segment = segments - 1 - index if REVERSE else index
        at_segment = (state * segments + segment) * size + at
        tl.store(before + at_segment, memory, mask=inside)
        total = memory
        if REVERSE:
            total += tl.load(parts + at_segment, mask=inside, other=0.0)
        frozen = rounded(memory, DERIVED)
        norm = tl.load(norms + (state * segments + segment) * FEATURES + features, mask=features < FEATURES, other=0.0)
        first = segment.to(tl.int64) * segment_len
        # An unfinished segment is not written.
        end = tl.where(segment < whole, first + segment_len, first)
        for begin in range(first, end, BLOCK):
            rows = place < end - begin
            at_key = batch * tokens + begin
            block = features_of(k, at_key, kv_heads, kv_head, place, rows, features, FEATURES, ROWS)
            # The first segment of a sequence is written as it is.
            inverse = tl.where(segment + first_segment > 0, inverse_of(tl.sum(block * norm[None, :], 1)), 0.0)
            block = rounded(block, DERIVED)
            change = -matmul(block, frozen, PRECISION=PRECISION) * inverse[:, None]
            if not REVERSE:
                value = load_tile(v, at_key, kv_heads, kv_head, place, rows, columns, COLUMNS, COLUMNS % WIDTH != 0)
                change += value.to(tl.float32)
            total = matmul(tl.trans(block), rounded(change, DERIVED), total, PRECISION)
        memory = total
    tl.store(final + state * size + at, memory, mask=inside)


def delta_states(
    k: Tensor,
    v: Tensor,
    norms: Tensor,
    start: Tensor,
    layout: Layout,
    *,
    parts: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """M before each segment [B, Hkv, segments, D, E] and after the last whole one; with `parts`, the gradients G.

    k [B, keys, Hkv, D], v [B, keys, Hkv, E]; norms: z before each segment
    """
    tiles = delta_tiles(k.dtype, layout)
    width = min(tiles.columns, padded(layout.columns))
    before = start.new_empty(layout.batch, layout.kv_heads, layout.segments, *start.shape[2:])
    final = torch.empty_like(start)
    launch(
        delta_kernel,
        (layout.batch * layout.kv_heads, triton.cdiv(layout.columns, width)),
        k=k,
        v=v,
        norms=norms,
        parts=parts,
        start=start,
        before=before,
        final=final,
        tokens=layout.keys,
        segments=layout.segments,
        whole=layout.whole,
        segment_len=layout.segment_len,
        first_segment=layout.first,
        kv_heads=layout.kv_heads,
        FEATURES=layout.features,
        COLUMNS=layout.columns,
        BLOCK=tiles.keys,
        ROWS=padded(layout.features),
        WIDTH=width,
        REVERSE=parts is not None,
        **numeric_arguments(tiles, k.dtype),
    )
    return before, final
