"""The 8-bit linear map: checks its arguments, chooses the implementation."""

from __future__ import annotations

import torch
from torch import Tensor

from longatlas import LongAtlasError
from longatlas.ops.arguments import check_choice
from longatlas_plugins.misc.int8_weights import fast, reference

IMPLS = ("auto", "reference", "torch")


def int8_linear(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    *,
    threshold: float = 6.0,
    activations: bool = True,
    impl: str = "auto",
) -> Tensor:
    """y = x W^T with W = scale * weight, by LLM.int8() (arXiv:2208.07339, section 3).

    x [..., in], floating point; weight [out, in], int8; scale [out], fp32; returns [..., out] in x's dtype.
    Activations are scaled to 8 bits token by token; those with |x| > `threshold` (0 = none) are multiplied in
    x's precision. `activations=False` quantises none. The gradient reaches x as if nothing were rounded, and
    no other argument. Raises LongAtlasError where shapes or dtypes do not fit.
    """
    check_choice("impl", impl, IMPLS)
    if weight.dtype != torch.int8 or weight.ndim != 2 or scale.shape != weight.shape[:1]:
        raise LongAtlasError(
            f"weight is {weight.dtype} {list(weight.shape)} and scale {list(scale.shape)}; "
            "give int8 [out, in] and [out]"
        )
    if not x.is_floating_point() or x.shape[-1:] != weight.shape[1:]:
        raise LongAtlasError(f"x is {x.dtype} {list(x.shape)}; give floating point [..., {weight.shape[1]}]")
    if threshold < 0:
        raise LongAtlasError(f"threshold is {threshold}; it must be at least 0 (0 = no outliers)")
    linear = reference.linear if impl == "reference" else fast.linear
    y = linear(x.reshape(-1, x.shape[-1]), weight, scale, threshold, activations)
    return y.view(*x.shape[:-1], weight.shape[0])
