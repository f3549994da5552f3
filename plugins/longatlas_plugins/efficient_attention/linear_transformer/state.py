"""What a Linear Transformer carries between calls (arXiv:2006.16236, section 3.4), and its feature map."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Where every feature of a query or of the keys underflows, the normaliser counts as this: the output is 0.
NORMALISER_FLOOR = 1e-30


class LinearState(NamedTuple):
    """Sums over all tokens read, fp32 (fp64 for fp64 inputs).

    memory  S [B, H, D, E], of φ(k) v^T
    norm    z [B, H, D], of φ(k)
    """

    memory: Tensor
    norm: Tensor


def features(x: Tensor) -> Tensor:
    """φ(x) = elu(x) + 1 in fp32 (fp64 for fp64), as x + 1 above 0 and exp(x) below: no cancellation."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x.relu() + x.clamp(max=0).exp()  # eq (7)
