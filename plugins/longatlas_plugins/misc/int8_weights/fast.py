"""LLM.int8() (arXiv:2208.07339) with integer matrix products; rounding is to the nearest even integer."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

LARGEST = 127


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [..., K] -> int8 [..., K] and the step [..., 1] that scales it back: absmax of the row / 127.

    Vector-wise quantisation (section 3.1). The step is in fp32 (fp64 for fp64 input), 1 for a row of zeros.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    step = x.abs().amax(-1, keepdim=True) / LARGEST
    step = torch.where(step == 0, 1.0, step)
    return (x / step).round().clamp(-LARGEST, LARGEST).to(torch.int8), step


def linear(x: Tensor, weight: Tensor, scale: Tensor, threshold: float, activations: bool) -> Tensor:
    """x [M, in]; weight int8 [out, in]; scale [out]; y [M, out] in x's dtype."""
    y: Tensor = _StraightThrough.apply(x, weight, scale, threshold, activations)
    return y


class _StraightThrough(torch.autograd.Function):
    """The quantised product forward; backward the product with the weights scaled back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, threshold: float, activations: bool) -> Tensor:
        ctx.save_for_backward(weight, scale)
        if activations:
            return _mixed(x, weight, scale, threshold)
        return functional.linear(x, scale_back(weight, scale, x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        weight, scale = ctx.saved_tensors
        return grad @ scale_back(weight, scale, grad.dtype), None, None, None, None


def scale_back(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The weights [out, in] that int8 weight [out, in] and scale [out] stand for."""
    wide = torch.promote_types(dtype, torch.float32)
    return (weight.to(wide) * scale.to(wide)[:, None]).to(dtype)


def _mixed(x: Tensor, weight: Tensor, scale: Tensor, threshold: float) -> Tensor:
    """Integers for the small activations, x's precision for the outliers (section 3.2)."""
    outlier = x.abs() > threshold
    has_outliers = threshold > 0 and bool(outlier.any())
    integers, step = quantize_rows(x.masked_fill(outlier, 0.0) if has_outliers else x)
    y = int_matmul(integers, weight).to(step.dtype) * step * scale.to(step.dtype)
    if has_outliers:
        columns = outlier.any(0).nonzero().flatten()
        large = x.masked_fill(~outlier, 0.0)[:, columns]
        y = y + large @ scale_back(weight[:, columns], scale, x.dtype).t()
    return y.to(x.dtype)


def int_matmul(a: Tensor, b: Tensor) -> Tensor:
    """a [M, K] times the transpose of b [N, K], both int8: exact int32, or fp64 where that is missing."""
    if not _has_exact_int_mm(a.device.type):
        return a.double() @ b.double().t()
    if a.device.type == "cpu":
        return torch._int_mm(a, b.t())
    # cuBLAS wants more than 16 rows, and K and N in multiples of 8.
    rows, columns = a.shape[0], b.shape[0]
    inner = -a.shape[1] % 8
    a = functional.pad(a, (0, inner, 0, max(32 - rows, 0)))
    b = functional.pad(b, (0, inner, 0, -columns % 8)) if inner or columns % 8 else b
    return torch._int_mm(a, b.t())[:rows, :columns]


@lru_cache
def _has_exact_int_mm(device: str) -> bool:
    """Whether torch._int_mm runs here and accumulates in 32 bits; some processors saturate at 16."""
    a = torch.full((32, 256), LARGEST, dtype=torch.int8, device=device)
    try:
        product = torch._int_mm(a, a.t())
    except (RuntimeError, NotImplementedError):
        return False
    return bool((product == 256 * LARGEST**2).all())
