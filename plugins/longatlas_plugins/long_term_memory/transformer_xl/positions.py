"""Sinusoids of distances (arXiv:1901.02860, section 3.3; arXiv:1706.03762, section 3.5)."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=16)
def sinusoids(
    length: int, d_model: int, *, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> Tensor:
    """R [length, d_model]: row δ is [sin(δω), cos(δω)] in halves, ω_i = 10000^(-2i/d_model).

    Angles are built in fp64 and only the result is rounded to `dtype`: positions in bf16 would collide beyond
    256. An odd d_model drops the last cosine. The result is kept and shared: do not write to it.
    """
    with torch.inference_mode(False), torch.no_grad():
        places = torch.arange(length, dtype=torch.float64, device=device)
        steps = torch.arange(0, d_model, 2, dtype=torch.float64, device=device)
        angle = places[:, None] * 10000.0 ** (-steps / d_model)
        return torch.cat([angle.sin(), angle.cos()], 1)[:, :d_model].to(dtype)
