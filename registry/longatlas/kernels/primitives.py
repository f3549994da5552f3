"""Small functions that kernels are made of: products, roundings, tiles of [tokens, H, D] tensors.

Imports triton; import it in kernels only. The interpreter multiplies the bit patterns of bf16 (triton-lang/triton issue
11584) and cuts digits off where a GPU rounds to nearest even: `matmul` and `rounded` are right in both.
"""

# What a kernel is given has types of Triton's, which annotations cannot say.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction

# What a sum is rounded to before it is multiplied again, and how such products are made. fp16 would overflow at 65504.
DERIVED = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float32, torch.float32: tl.float32}
LOG2E = tl.constexpr(1.4426950408889634)
PRECISION = {torch.bfloat16: "tf32", torch.float16: "tf32", torch.float32: "tf32x3"}


@triton.jit
def matmul(left, right, total=None, PRECISION: tl.constexpr = "tf32x3"):
    """left right (+ total), summed in fp32.

    PRECISION  how fp32 operands are multiplied: "tf32x3" (about fp32), "tf32" (10 bits, as fp16, with fp32's range)
    """
    if INTERPRETED:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, total, input_precision=PRECISION)


@triton.jit
def rounded(x, DTYPE: tl.constexpr):
    """fp32 x in another floating-point dtype, to nearest even."""
    if INTERPRETED and DTYPE.is_bf16():
        bits = x.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        x = bits.to(tl.float32, bitcast=True)
    return x.to(DTYPE)


@triton.jit
def tile_at(tensor, first, heads, head, rows, columns, SIZE: tl.constexpr):
    """Pointers to a tile of one head of a [tokens, H, SIZE] tensor; its rows count from token `first` (64 bits)."""
    return tensor + (first * heads + head) * SIZE + (rows[:, None] * (heads * SIZE) + columns[None, :])


@triton.jit
def tile_mask(rows, columns, SIZE: tl.constexpr, PADDED: tl.constexpr):
    """Where a tile lies inside: rows is a mask; columns are tested only where they are padded."""
    return rows[:, None] & (columns[None, :] < SIZE) if PADDED else rows[:, None] & (columns[None, :] >= 0)


@triton.jit
def load_tile(tensor, first, heads, head, rows, inside, columns, SIZE: tl.constexpr, PADDED: tl.constexpr):
    """A tile of one head of a [tokens, H, SIZE] tensor: rows from token `first` on, zero where not `inside`."""
    mask = tile_mask(inside, columns, SIZE, PADDED)
    return tl.load(tile_at(tensor, first, heads, head, rows, columns, SIZE), mask=mask, other=0.0)


@triton.jit
def store_tile(tensor, x, first, heads, head, rows, inside, columns, SIZE: tl.constexpr, PADDED: tl.constexpr):
    """Where load_tile loads from: fp32 x, rounded to the tensor's dtype."""
    mask = tile_mask(inside, columns, SIZE, PADDED)
    at = tile_at(tensor, first, heads, head, rows, columns, SIZE)
    tl.store(at, rounded(x, tensor.dtype.element_ty), mask=mask)


@triton.jit
def row_products(
    left, left_first, left_heads, left_head, left_rows, left_inside,
    right, right_first, right_heads, right_head, right_rows, right_inside,
    SIZE: tl.constexpr, PART: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """left right^T over rows of SIZE elements, PART at a time: [left rows, right rows], fp32."""
    total = tl.zeros([left_rows.shape[0], right_rows.shape[0]], tl.float32)
    for start in range(0, SIZE, PART):
        columns = start + tl.arange(0, PART)
        one = load_tile(
            left, left_first, left_heads, left_head, left_rows, left_inside, columns, SIZE, SIZE % PART != 0
        )
        other = load_tile(
            right, right_first, right_heads, right_head, right_rows, right_inside, columns, SIZE, SIZE % PART != 0
        )
        total = matmul(one, tl.trans(other), total, PRECISION)
    return total


INTERPRETED = tl.constexpr(isinstance(matmul, InterpretedFunction))
