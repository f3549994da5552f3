"""The public function linear_attention (arXiv:2006.16236): checks its arguments and chooses the impl."""

from __future__ import annotations

from torch import Tensor

from longatlas.ops.arguments import check_choice, check_qkv, check_shape
from longatlas_plugins.efficient_attention.linear_transformer.fast import linear_attention_torch
from longatlas_plugins.efficient_attention.linear_transformer.reference import linear_attention_reference
from longatlas_plugins.efficient_attention.linear_transformer.state import LinearState

IMPLS = {"torch": linear_attention_torch, "reference": linear_attention_reference}


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    initial_state: LinearState | None = None,
    output_final_state: bool = False,
    impl: str = "auto",
) -> tuple[Tensor, LinearState | None]:
    """Causal attention with weights φ(q_i)·φ(k_j), normalised to sum to 1; φ(x) = elu(x) + 1.

    q, k           [B, T, H, D]
    v              [B, T, H, E]
    initial_state  LinearState to continue from; None = start of a sequence
    impl           "auto", "torch" (by chunks) or "reference" (token by token)

    Returns o [B, T, H, E] in v's dtype, and the LinearState after the last token, or None when
    output_final_state is False. Gradients flow to all tensors. Any T, 0 included.
    Source: arXiv:2006.16236, eq (7), (12) and (18) to (20).

    Raises LongAtlasError (a ValueError) for shapes that do not fit and for an unknown impl.
    """
    check_choice("impl", impl, ("auto", *IMPLS))
    _check(q, k, v, initial_state)
    o, state = IMPLS["torch" if impl == "auto" else impl](q, k, v, initial_state)
    return o, state if output_final_state else None


def _check(q: Tensor, k: Tensor, v: Tensor, state: LinearState | None) -> None:
    check_qkv(q, k, v)
    if state is not None:
        batch, _, heads, size = q.shape
        check_shape("initial_state.memory", state.memory, "B H D E", (batch, heads, size, v.shape[3]))
        check_shape("initial_state.norm", state.norm, "B H D", (batch, heads, size))
