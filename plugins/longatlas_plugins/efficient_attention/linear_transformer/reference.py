"""The Linear Transformer as a recurrent network, token by token (arXiv:2006.16236, section 3.4)."""

from __future__ import annotations

from torch import Tensor

from longatlas.ops import recurrent_linear_attention
from longatlas_plugins.efficient_attention.linear_transformer.state import (
    NORMALISER_FLOOR,
    LinearState,
    features,
)


def linear_attention_reference(
    q: Tensor, k: Tensor, v: Tensor, state: LinearState | None
) -> tuple[Tensor, LinearState]:
    """q, k [B, T, H, D]; v [B, T, H, E] -> o [B, T, H, E] and the state."""
    q, k = features(q), features(k)
    values = v.to(q.dtype)
    memory, norm = (None, None) if state is None else (state.memory, state.norm[..., None])
    read, memory = recurrent_linear_attention(q, k, values, initial_state=memory)  # eq (18)
    ones = values.new_ones(*values.shape[:3], 1)
    total, norm = recurrent_linear_attention(q, k, ones, initial_state=norm)  # eq (19)
    o = read / total.clamp(min=NORMALISER_FLOOR)  # eq (20)
    return o.to(v.dtype), LinearState(memory, norm[..., 0])
