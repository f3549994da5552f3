"""Products and roundings for kernels that must also be right in Triton's interpreter.

Imports triton; import it in kernels only. The interpreter multiplies the bit patterns of bf16 (triton-lang/triton issue
11584) and cuts digits off where a GPU rounds to nearest even.
"""

# What a kernel is given has types of Triton's, which annotations cannot say.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction


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


INTERPRETED = tl.constexpr(isinstance(matmul, InterpretedFunction))
