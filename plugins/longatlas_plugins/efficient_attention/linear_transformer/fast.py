"""The Linear Transformer by chunks (arXiv:2006.16236): the normaliser comes of a column of ones in v."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from longatlas.ops import chunked_linear_attention
from longatlas_plugins.efficient_attention.linear_transformer.state import (
    NORMALISER_FLOOR,
    LinearState,
    features,
)


def linear_attention_torch(q: Tensor, k: Tensor, v: Tensor, state: LinearState | None) -> tuple[Tensor, LinearState]:
    """q, k [B, T, H, D]; v [B, T, H, E] -> o [B, T, H, E] and the state."""
    q, k = features(q), features(k)
    values = functional.pad(v.to(q.dtype), (0, 1), value=1.0)
    before = None if state is None else torch.cat([state.memory, state.norm[..., None]], -1)
    read, after = chunked_linear_attention(q, k, values, initial_state=before)
    o = read[..., :-1] / read[..., -1:].clamp(min=NORMALISER_FLOOR)  # eq (12)
    return o.to(v.dtype), LinearState(after[..., :-1].contiguous(), after[..., -1].contiguous())
