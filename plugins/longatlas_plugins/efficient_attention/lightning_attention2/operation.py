"""The public function lightning_attention (arXiv:2401.04658): checks its arguments and chooses the impl."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from longatlas import LongAtlasError
from longatlas.ops import chunked_linear_attention, recurrent_linear_attention
from longatlas_plugins.efficient_attention.lightning_attention2.arguments import (
    check_arguments,
    sequence_bounds,
)

Operation = Callable[..., tuple[Tensor, Tensor]]
IMPLS: dict[str, Operation] = {"torch": chunked_linear_attention, "reference": recurrent_linear_attention}


def lightning_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    *,
    scale: float = 1.0,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    impl: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """Causal linear attention with a decay per head: S_t = λ S_{t-1} + k_t^T v_t, o_t = scale q_t S_t.

    q, k           [B, T, H, D], fp64, fp32, bf16 or fp16
    v              [B, T, H, E], in q's dtype
    decay          [H] >= 0; λ = exp(-decay) per token, 0 = plain linear attention
    initial_state  S_0 [B, H, D, E] in fp32 (fp64 for fp64 inputs); None = zeros
    cu_seqlens     [n+1] integers 0 = c_0 <= ... <= c_n = T: n sequences lie one after the other in one batch
                   entry (B = 1), each with its own state; states are then [n, H, D, E]
    impl           "auto", "torch" (in tiles) or "reference" (token by token)

    Returns o [B, T, H, E] in v's dtype, and S_T = λ^T S_0 + Σ λ^(T-t) k_t^T v_t, or None when
    output_final_state is False. Gradients flow to q, k, v, decay and the initial state. Any T, 0 included; D
    and E may differ.
    Source: arXiv:2401.04658, the recurrence and its form in blocks.

    Raises LongAtlasError (a ValueError) that names the argument whose shape, dtype, device or value is wrong.
    """
    if impl not in ("auto", *IMPLS):
        raise LongAtlasError(f"impl is {impl!r}; it must be one of auto, {', '.join(IMPLS)}")
    bounds = None if cu_seqlens is None else sequence_bounds(cu_seqlens, q)
    check_arguments(q, k, v, decay, initial_state, None if bounds is None else len(bounds) - 1)
    operation = IMPLS["torch" if impl == "auto" else impl]
    # Under autocast a single token would be multiplied with the state in 16 bits.
    with torch.autocast(q.device.type, enabled=False):
        if bounds is None:
            o, state = operation(q, k, v, decay=decay, scale=scale, initial_state=initial_state)
        else:
            o, state = _packed(operation, q, k, v, decay, scale, initial_state, bounds)
    return o, state if output_final_state else None


def _packed(
    operation: Operation,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    scale: float,
    initial_state: Tensor | None,
    bounds: list[int],
) -> tuple[Tensor, Tensor]:
    """One sequence of the pack after the other."""
    outputs, states = [], []
    for i, (start, end) in enumerate(pairwise(bounds)):
        before = None if initial_state is None else initial_state[i : i + 1]
        part = (x[:, start:end] for x in (q, k, v))
        o, state = operation(*part, decay=decay, scale=scale, initial_state=before)
        outputs.append(o)
        states.append(state)
    return torch.cat(outputs, 1), torch.cat(states)
