"""One token: S <- λ S + k^T v, o = scale q S, all heads in one launch (arXiv:2401.04658, the recurrence)."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from longatlas.kernels import launch, padded
from longatlas.kernels.primitives import rounded

COLUMNS = 32  # of the state, per program: enough programs to fill a GPU at small batches


@triton.jit(do_not_specialize=["heads"])
def decode_kernel(
    q,
    k,
    v,
    o,
    rates,
    state_before,
    state_after,
    scale,
    heads,
    d_size: tl.constexpr,
    e_size: tl.constexpr,
    FEATURES: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One sequence, head and block of columns; q, k [B, H, D], v, o [B, H, E], states [B, H, D, E]."""
    row = tl.program_id(0).to(tl.int64)  # sequence and head
    features = tl.arange(0, FEATURES)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    in_row, in_column = features < d_size, columns < e_size
    at = (row * d_size + features[:, None]) * e_size + columns[None, :]
    inside = in_row[:, None] & in_column[None, :]
    query = tl.load(q + row * d_size + features, mask=in_row, other=0.0).to(tl.float32)
    key = tl.load(k + row * d_size + features, mask=in_row, other=0.0).to(tl.float32)
    value = tl.load(v + row * e_size + columns, mask=in_column, other=0.0).to(tl.float32)
    state = key[:, None] * value[None, :]
    if state_before is not None:
        kept = tl.exp(-tl.load(rates + tl.program_id(0) % heads))
        state += kept * tl.load(state_before + at, mask=inside, other=0.0)
    tl.store(state_after + at, state, mask=inside)
    output = scale * tl.sum(query[:, None] * state, 0)
    tl.store(o + row * e_size + columns, rounded(output, o.dtype.element_ty), mask=in_column)


def decode_step(
    q: Tensor, k: Tensor, v: Tensor, rates: Tensor, scale: float, state_before: Tensor | None, state_after: Tensor
) -> Tensor:
    """q, k [B, 1, H, D], v [B, 1, H, E] -> o [B, 1, H, E]; state_after [B, H, D, E] may be state_before itself."""
    batch, _, heads, d_size = q.shape
    e_size = v.shape[3]
    o = v.new_empty(v.shape)
    launch(
        decode_kernel,
        (batch * heads, triton.cdiv(e_size, COLUMNS)),
        q=q,
        k=k,
        v=v,
        o=o,
        rates=rates,
        state_before=state_before,
        state_after=state_after,
        scale=float(scale),
        heads=heads,
        d_size=d_size,
        e_size=e_size,
        FEATURES=padded(d_size),
        COLUMNS=COLUMNS,
    )
    return o
