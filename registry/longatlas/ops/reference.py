"""Dense and step-by-step references, straight from the definitions; for checks, not for speed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longatlas.ops import masks
from longatlas.ops.arguments import repeated
from longatlas.ops.masks import indices
from longatlas.ops.merging import log_sum_exp, masked_softmax
from longatlas.slots import MaskMod, ScoreMod


def dense_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask_mod: MaskMod | None = None,
    score_mod: ScoreMod | None = None,
    q_positions: Tensor | None = None,
    k_positions: Tensor | None = None,
    visible: Tensor | None = None,
    scale: float | None = None,
    return_lse: bool = False,
) -> Any:
    """Causal softmax attention with the whole [B, H, T, S] score matrix in memory.

    q [B, T, H, D]; k [B, S, Hkv, D]; v [B, S, Hkv, E]; o [B, T, H, E]. A query that sees no key gets 0.
    Positions, [T] and [S] or by row [B, T] and [B, S], default to 0 ... S-1 for keys, and to the last T of them for
    queries. visible, return_lse as in longatlas.ops.blockwise_attention.
    """
    queries, keys = q.shape[1], k.shape[1]
    if k_positions is None:
        k_positions = torch.arange(keys, device=q.device)
    if q_positions is None:
        q_positions = torch.arange(keys - queries, keys, device=q.device)
    k, v = repeated(q.shape[2], k, v)
    scores = torch.einsum("bthd,bshd->bhts", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if score_mod is not None:
        scores = score_mod(scores, *indices(q_positions, k_positions, q.shape[0], q.shape[2]))
    seen = masks.visible(mask_mod, q_positions, k_positions, q.shape[0], q.shape[2], visible)
    o = torch.einsum("bhts,bshe->bthe", masked_softmax(scores, seen), v)
    return (o, log_sum_exp(scores.masked_fill(~seen, -torch.inf)).transpose(1, 2)) if return_lse else o


def recurrent_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    decay: Tensor | None = None,
    scale: float = 1.0,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """S_t = exp(-decay) S_{t-1} + k_t^T v_t, o_t = scale q_t S_t, one token after the other.

    q, k [B, T, H, D]; v [B, T, H, E]; decay [H] >= 0 or None; state [B, H, D, E] in fp32 (fp64 for fp64 inputs).
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    batch, length, heads, size = q.shape
    state = q.new_zeros(batch, heads, size, v.shape[-1], dtype=dtype) if initial_state is None else initial_state
    keep = torch.ones(heads, dtype=dtype, device=q.device) if decay is None else torch.exp(-decay.to(dtype))
    outputs = []
    for t in range(length):
        update = torch.einsum("bhd,bhe->bhde", k[:, t].to(dtype), v[:, t].to(dtype))
        state = keep[:, None, None] * state + update
        outputs.append(scale * torch.einsum("bhd,bhde->bhe", q[:, t].to(dtype), state))
    o = torch.stack(outputs, 1) if outputs else v.new_zeros(batch, 0, heads, v.shape[-1])
    return o.to(v.dtype), state
