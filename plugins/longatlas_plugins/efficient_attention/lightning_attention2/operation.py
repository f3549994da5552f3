"""The public function lightning_attention (arXiv:2401.04658): checks its arguments and chooses the impl."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor

from longatlas import LongAtlasError
from longatlas.kernels import obstacle
from longatlas.ops import chunked_linear_attention, recurrent_linear_attention
from longatlas.ops.arguments import check_choice, check_tensors
from longatlas_plugins.efficient_attention.lightning_attention2.arguments import (
    check_arguments,
    check_for_kernels,
    check_rates,
    count_sequences,
    sequence_bounds,
)

Operation = Callable[..., tuple[Tensor, Tensor]]
IMPLS: dict[str, Operation] = {"torch": chunked_linear_attention, "reference": recurrent_linear_attention}
SCHEDULES = ("auto", "fused", "superchunks")


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
    schedule: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """Causal linear attention with a decay per head: S_t = λ S_{t-1} + k_t^T v_t, o_t = scale q_t S_t.

    q, k           [B, T, H, D], fp64, fp32, bf16 or fp16
    v              [B, T, H, E], in q's dtype
    decay          [H] >= 0; λ = exp(-decay) per token, 0 = plain linear attention
    initial_state  S_0 [B, H, D, E] in fp32 (fp64 for fp64 inputs); None = zeros
    cu_seqlens     [n+1] integers 0 = c_0 <= ... <= c_n = T: n sequences lie one after the other in one batch
                   entry (B = 1), each with its own state; states are then [n, H, D, E]
    impl           "triton" (kernels for a GPU; D and E multiples of 16 up to 256, contiguous tensors, no fp64, no
                   gradient of decay), "torch" (in tiles), "reference" (token by token), or "auto": triton where it
                   takes these tensors, else torch (`chosen_impl` tells)
    schedule       of the kernels: "fused" (one program scans a whole sequence), "superchunks" (its parts side by
                   side, at the cost of a second pass over k and v), or "auto": superchunks where whole sequences
                   would leave the GPU idle

    Returns o [B, T, H, E] in v's dtype, and S_T = λ^T S_0 + Σ λ^(T-t) k_t^T v_t, or None when
    output_final_state is False. Gradients flow to q, k, v, decay and the initial state. Any T, 0 included; D
    and E may differ.
    Source: arXiv:2401.04658, the recurrence and its form in blocks.

    Raises LongAtlasError (a ValueError) that names the argument whose shape, dtype, device or value is wrong.
    """
    check_choice("impl", impl, ("auto", "triton", *IMPLS))
    check_choice("schedule", schedule, SCHEDULES)
    optional = {"initial_state": initial_state, "cu_seqlens": cu_seqlens}
    check_tensors(q=q, k=k, v=v, decay=decay, **{name: x for name, x in optional.items() if x is not None})
    sequences = None if cu_seqlens is None else count_sequences(cu_seqlens, q)
    check_arguments(q, k, v, decay, initial_state, sequences)
    if impl == "auto":
        impl = chosen_impl(q, k, v, decay)
    # Under autocast a single token would be multiplied with the state in 16 bits.
    with torch.autocast(q.device.type, enabled=False):
        if impl == "triton":
            o, state = _triton(q, k, v, decay, scale, initial_state, cu_seqlens, schedule)
        else:
            o, state = _eager(IMPLS[impl], q, k, v, decay, scale, initial_state, cu_seqlens)
    return o, state if output_final_state else None


def lightning_decode_(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, state: Tensor, *, scale: float = 1.0, impl: str = "auto"
) -> Tensor:
    """One token: writes λ S + k^T v over `state`, and returns o = scale q S.

    q, k [B, 1, H, D]; v [B, 1, H, E]; state [B, H, D, E] as lightning_attention gives it; o [B, 1, H, E]. Without
    gradients. A decoding loop that keeps no earlier state saves a copy of it at each token.

    Raises LongAtlasError as lightning_attention does, and for more than one token.
    """
    check_choice("impl", impl, ("auto", "triton", *IMPLS))
    check_tensors(q=q, k=k, v=v, decay=decay, state=state)
    check_arguments(q, k, v, decay, state, None)
    if q.shape[1] != 1:
        raise LongAtlasError(
            f"q has shape {list(q.shape)}; it must be one token, [B, 1, H, D]: use lightning_attention"
        )
    with torch.no_grad():
        if impl == "triton" or (impl == "auto" and chosen_impl(q, k, v, decay) == "triton"):
            check_for_kernels(q, k, v, decay, state)
            from longatlas_plugins.efficient_attention.lightning_attention2.kernels import lightning_decode_triton

            return lightning_decode_triton(q, k, v, decay, state, float(scale))
        o, after = lightning_attention(
            q, k, v, decay, scale=scale, initial_state=state, output_final_state=True, impl=impl
        )
        state.copy_(cast(Tensor, after))
        return o


def chosen_impl(q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> str:
    """What impl="auto" stands for with these arguments: "triton" or "torch"."""
    takes = q.is_cuda and not obstacle(q=q, k=k, v=v) and not (decay.requires_grad and torch.is_grad_enabled())
    return "triton" if takes and q.is_contiguous() and k.is_contiguous() and v.is_contiguous() else "torch"


def _triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    scale: float,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    schedule: str,
) -> tuple[Tensor, Tensor]:
    check_for_kernels(q, k, v, decay, initial_state)
    from longatlas_plugins.efficient_attention.lightning_attention2.kernels import lightning_attention_triton

    return lightning_attention_triton(
        q, k, v, decay, scale=scale, initial_state=initial_state, cu_seqlens=cu_seqlens, schedule=schedule
    )


def _eager(
    operation: Operation,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    scale: float,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    check_rates(decay)
    if cu_seqlens is None:
        return operation(q, k, v, decay=decay, scale=scale, initial_state=initial_state)
    return _packed(operation, q, k, v, decay, scale, initial_state, sequence_bounds(cu_seqlens, q))


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
