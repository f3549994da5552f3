"""Gradients of what a segment writes into the memory (eq 4, eq 5), given G, the gradient of M after the segment."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from longatlas.kernels import launch
from longatlas.kernels.primitives import load_tile, matmul, rounded, store_tile
from longatlas_plugins.long_term_memory.infini_attention.kernels.backward import store_through_sigma
from longatlas_plugins.long_term_memory.infini_attention.kernels.layout import Layout, memory_tiles, numeric_arguments
from longatlas_plugins.long_term_memory.infini_attention.kernels.local import memory_tile, read_memory
from longatlas_plugins.long_term_memory.infini_attention.kernels.memory import FLOOR, inverse_of

_RUNTIME = ["keys", "segments", "whole", "segment_len", "first_segment", "kv_heads", "each"]


class Correction(NamedTuple):
    """What the delta rule's gradients need of each key (eq 5).

    values    V - σ(K) M / n [B, keys, Hkv, E]
    pulls     σ(K) G, the gradient of V [B, keys, Hkv, E]
    inverses  1 / n [B, Hkv, keys]; norms: gradient of n = σ(K) z
    """

    values: Tensor
    pulls: Tensor
    inverses: Tensor
    norms: Tensor


@triton.jit
def block_of_keys(keys, whole, segment_len, kv_heads, each, KEYS: tl.constexpr):
    """A program's segment, kv head, sequence and first key; which of its keys are real, and which are written."""
    segment = tl.program_id(0) // each
    kv_head, batch = (tl.program_id(1) % kv_heads).to(tl.int64), (tl.program_id(1) // kv_heads).to(tl.int64)
    start = segment.to(tl.int64) * segment_len
    begin = start + (tl.program_id(0) % each) * KEYS
    length = tl.minimum(start + segment_len, keys) - begin
    column = tl.arange(0, KEYS)
    return segment, kv_head, batch, begin, column < length, column < tl.where(segment < whole, length, 0)


@triton.jit(do_not_specialize=_RUNTIME)
def correction_kernel(
    k, v, memory, norms, grads, values, pulls, inverses, grad_norms,
    keys, segments, whole, segment_len, first_segment, kv_heads, each,
    FEATURES: tl.constexpr, COLUMNS: tl.constexpr, KEYS: tl.constexpr, PART: tl.constexpr,
    DERIVED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A block of keys of one segment and kv head: its Correction; zeros for a segment that is not written."""
    segment, kv_head, batch, begin, inside, written = block_of_keys(keys, whole, segment_len, kv_heads, each, KEYS)
    state = (batch * kv_heads + kv_head) * segments + segment
    column = tl.arange(0, KEYS)
    at_key = batch * keys + begin
    corrects = segment + first_segment > 0
    slope = tl.zeros([KEYS], tl.float32)
    normaliser = tl.zeros([KEYS], tl.float32)
    for other in range(0, COLUMNS, PART):
        columns = other + tl.arange(0, PART)
        read, normaliser = read_memory(
            k, at_key, kv_heads, kv_head, column, written, memory, norms, state, columns,
            FEATURES, COLUMNS, PART, DERIVED, PRECISION,
        )  # fmt: skip
        read *= tl.where(corrects, inverse_of(normaliser), 0.0)[:, None]
        pull, _ = read_memory(
            k, at_key, kv_heads, kv_head, column, written, grads, norms, state, columns,
            FEATURES, COLUMNS, PART, DERIVED, PRECISION,
        )  # fmt: skip
        slope += tl.sum(pull * read, 1)
        value = load_tile(v, at_key, kv_heads, kv_head, column, inside, columns, COLUMNS, COLUMNS % PART != 0)
        corrected = value.to(tl.float32) - read
        store_tile(values, corrected, at_key, kv_heads, kv_head, column, inside, columns, COLUMNS, COLUMNS % PART != 0)
        store_tile(pulls, pull, at_key, kv_heads, kv_head, column, inside, columns, COLUMNS, COLUMNS % PART != 0)
    at_rows = (batch * kv_heads + kv_head) * keys + begin + column
    inverse = tl.where(corrects, inverse_of(normaliser), 0.0)
    tl.store(inverses + at_rows, inverse, mask=inside)
    tl.store(grad_norms + at_rows, tl.where(normaliser > FLOOR, slope * inverse, 0.0), mask=inside)


@triton.jit(do_not_specialize=_RUNTIME)
def write_backward_kernel(
    k, v, values, pulls, inverses, read_norms, memory, norms, grads, norm_grads, local_grad, grad_k, grad_v,
    keys, segments, whole, segment_len, first_segment, kv_heads, each,
    FEATURES: tl.constexpr, COLUMNS: tl.constexpr, KEYS: tl.constexpr, PART: tl.constexpr,
    DERIVED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A block of keys of one segment and kv head: the gradient of the raw k, and the whole gradient of v."""
    segment, kv_head, batch, begin, inside, written = block_of_keys(keys, whole, segment_len, kv_heads, each, KEYS)
    state = (batch * kv_heads + kv_head) * segments + segment
    column = tl.arange(0, KEYS)
    at_key = batch * keys + begin
    at_rows = (batch * kv_heads + kv_head) * keys + begin + column
    for other in range(0, COLUMNS, PART):
        columns = other + tl.arange(0, PART)
        if pulls is None:
            pull, _ = read_memory(
                k, at_key, kv_heads, kv_head, column, written, grads, norms, state, columns,
                FEATURES, COLUMNS, PART, DERIVED, PRECISION,
            )  # fmt: skip
        else:
            pull = load_tile(pulls, at_key, kv_heads, kv_head, column, inside, columns, COLUMNS, COLUMNS % PART != 0)
        pull += load_tile(local_grad, at_key, kv_heads, kv_head, column, inside, columns, COLUMNS, COLUMNS % PART != 0)
        store_tile(grad_v, pull, at_key, kv_heads, kv_head, column, inside, columns, COLUMNS, COLUMNS % PART != 0)
    for first in range(0, FEATURES, PART):
        features = first + tl.arange(0, PART)
        norm_grad = tl.load(norm_grads + state * FEATURES + features, mask=features < FEATURES, other=0.0)
        slopes = tl.zeros([KEYS, PART], tl.float32) + norm_grad[None, :]
        for other in range(0, COLUMNS, PART):
            columns = other + tl.arange(0, PART)
            tile = rounded(memory_tile(grads, state, features, columns, FEATURES, COLUMNS), DERIVED)
            source = v if values is None else values
            value = load_tile(source, at_key, kv_heads, kv_head, column, written, columns, COLUMNS, COLUMNS % PART != 0)
            slopes = matmul(value.to(DERIVED), tl.trans(tile), slopes, PRECISION)
            if pulls is not None:
                inverse = tl.load(inverses + at_rows, mask=inside, other=0.0)
                pull = load_tile(
                    pulls, at_key, kv_heads, kv_head, column, written, columns, COLUMNS, COLUMNS % PART != 0
                )
                pull = rounded(pull * -inverse[:, None], DERIVED)
                tile = rounded(memory_tile(memory, state, features, columns, FEATURES, COLUMNS), DERIVED)
                slopes = matmul(pull, tl.trans(tile), slopes, PRECISION)
        if pulls is not None:
            norm = tl.load(norms + state * FEATURES + features, mask=features < FEATURES, other=0.0)
            read_norm = tl.load(read_norms + at_rows, mask=inside, other=0.0)
            slopes += read_norm[:, None] * norm[None, :]
        slopes = tl.where(written[:, None], slopes, 0.0)
        store_through_sigma(grad_k, k, slopes, at_key, kv_heads, kv_head, column, inside, features, FEATURES, PART)


def correction(k: Tensor, v: Tensor, memory: Tensor, norms: Tensor, grads: Tensor, layout: Layout) -> Correction:
    """k [B, keys, Hkv, D], v [B, keys, Hkv, E]; memory, norms before each segment, grads G after each."""
    rows = (layout.batch, layout.kv_heads, layout.keys)
    # fp16 cannot hold what the correction may be; bf16 can.
    wide = torch.float32 if v.dtype == torch.float16 else v.dtype
    found = Correction(
        torch.empty_like(v, dtype=wide),
        torch.empty_like(v, dtype=torch.float32),
        k.new_empty(rows, dtype=torch.float32),
        k.new_empty(rows, dtype=torch.float32),
    )
    arguments = {"v": v, "memory": memory, "norms": norms, "grads": grads}
    outputs = {"values": found.values, "pulls": found.pulls, "inverses": found.inverses, "grad_norms": found.norms}
    _launch(correction_kernel, layout, k, **arguments, **outputs)
    return found


def write_backward(
    k: Tensor,
    v: Tensor,
    corrected: Correction | None,
    memory: Tensor,
    norms: Tensor,
    grads: Tensor,
    norm_grads: Tensor,
    local_grad: Tensor,
    layout: Layout,
) -> tuple[Tensor, Tensor]:
    """The gradients of the raw k and of v; local_grad: local attention's part of v's, fp32."""
    grad_k, grad_v = torch.empty_like(k), torch.empty_like(v)
    _launch(
        write_backward_kernel,
        layout,
        k,
        v=v,
        values=corrected and corrected.values,
        pulls=corrected and corrected.pulls,
        inverses=corrected and corrected.inverses,
        read_norms=corrected and corrected.norms,
        memory=memory,
        norms=norms,
        grads=grads,
        norm_grads=norm_grads,
        local_grad=local_grad,
        grad_k=grad_k,
        grad_v=grad_v,
    )
    return grad_k, grad_v


def _launch(kernel: object, layout: Layout, k: Tensor, **arguments: Tensor | None) -> None:
    tiles = memory_tiles(k.dtype, layout, k.device)
    _, blocks, each = layout.blocks(tiles.keys)
    launch(
        kernel,
        (blocks if layout.keys else 0, layout.batch * layout.kv_heads),
        k=k,
        **arguments,
        keys=layout.keys,
        segments=layout.segments,
        whole=layout.whole,
        segment_len=layout.segment_len,
        first_segment=layout.first,
        kv_heads=layout.kv_heads,
        each=each,
        FEATURES=layout.features,
        COLUMNS=layout.columns,
        KEYS=tiles.keys,
        PART=tiles.part,
        **numeric_arguments(tiles, k.dtype),
    )
