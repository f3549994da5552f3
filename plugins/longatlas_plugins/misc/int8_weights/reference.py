"""LLM.int8() (arXiv:2208.07339, section 3): the same integers, scaled back and multiplied in fp64."""

from __future__ import annotations

import torch
from torch import Tensor


def linear(x: Tensor, weight: Tensor, scale: Tensor, threshold: float, activations: bool) -> Tensor:
    """x [M, in]; weight int8 [out, in]; scale [out]; y [M, out] in x's dtype."""
    w = weight.double() * scale.double()[:, None]
    plain = x.double() @ w.t()
    if not activations:
        return plain.to(x.dtype)
    with torch.no_grad():
        rows = [_rounded(row, threshold) for row in x]
        seen = torch.stack(rows) if rows else x.double()
        # Straight through: the value of the rounded product, the gradient of the plain one.
        correction = seen @ w.t() - plain
    return (plain + correction).to(x.dtype)


def _rounded(row: Tensor, threshold: float) -> Tensor:
    """One token [in] as the product sees it, fp64: outliers as they are, the rest on its 8-bit grid."""
    row = row.to(torch.promote_types(row.dtype, torch.float32))
    outlier = row.abs() > threshold if threshold > 0 else torch.zeros_like(row, dtype=torch.bool)
    small = row.masked_fill(outlier, 0.0)
    step = small.abs().max() / 127
    if step == 0:
        return row.double()
    grid = torch.round(small / step).double() * step.double()
    return torch.where(outlier, row.double(), grid)
