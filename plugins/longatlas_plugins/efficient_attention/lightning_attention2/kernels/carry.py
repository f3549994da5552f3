"""From what each piece adds to the state to the state before each piece: a running sum with decay, in place."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from longatlas.kernels import launch
from longatlas_plugins.efficient_attention.lightning_attention2.kernels.pieces import Pieces

ELEMENTS = 1024  # of the state, per program


@triton.jit(do_not_specialize=["heads"])
def carry_kernel(
    states,
    state_before,
    state_after,
    rates,
    pieces,
    bounds,
    heads,
    size: tl.constexpr,
    BLOCK: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """One sequence, head and block of the state's elements; bounds [n+1]: the pieces of each sequence."""
    sequence = (tl.program_id(0) // heads).to(tl.int64)
    head = (tl.program_id(0) % heads).to(tl.int64)
    first, end = tl.load(bounds + sequence), tl.load(bounds + sequence + 1)
    rate = tl.load(rates + head)
    element = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = element < size
    at_sequence = (sequence * heads + head) * size + element
    state = tl.zeros([BLOCK], tl.float32)
    if state_before is not None:
        state = tl.load(state_before + at_sequence, mask=inside, other=0.0)
    for index in range(end - first):
        piece = end - 1 - index if REVERSE else first + index
        length = tl.load(pieces + 2 * piece + 1) - tl.load(pieces + 2 * piece)
        at = states + (piece * heads + head) * size + element
        added = tl.load(at, mask=inside, other=0.0)
        tl.store(at, state, mask=inside)
        state = tl.exp(-rate * length.to(tl.float32)) * state + added
    if state_after is not None:
        tl.store(state_after + at_sequence, state, mask=inside)


def carry(
    states: Tensor,
    rates: Tensor,
    pieces: Pieces,
    *,
    state_before: Tensor | None,
    state_after: Tensor | None,
    reverse: bool = False,
) -> None:
    """states [pieces, H, D, E] fp32: from each piece's own sum to the state before it (after it, when `reverse`)."""
    heads, size = states.shape[1], states.shape[2] * states.shape[3]
    launch(
        carry_kernel,
        (pieces.sequences * heads, triton.cdiv(size, ELEMENTS)),
        states=states,
        state_before=state_before,
        state_after=state_after,
        rates=rates,
        pieces=pieces.ranges,
        bounds=pieces.bounds,
        heads=heads,
        size=size,
        BLOCK=ELEMENTS,
        REVERSE=reverse,
    )
