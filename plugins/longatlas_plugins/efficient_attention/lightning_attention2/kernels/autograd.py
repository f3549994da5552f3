"""Lightning Attention-2 for PyTorch: operators that torch.compile and torch.export see through, with gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longatlas.kernels import processors
from longatlas_plugins.efficient_attention.lightning_attention2.arguments import check_rates, sequence_bounds
from longatlas_plugins.efficient_attention.lightning_attention2.kernels.carry import carry
from longatlas_plugins.efficient_attention.lightning_attention2.kernels.decode import decode_step
from longatlas_plugins.efficient_attention.lightning_attention2.kernels.pieces import cut, cut_evenly
from longatlas_plugins.efficient_attention.lightning_attention2.kernels.scan import scan
from longatlas_plugins.efficient_attention.lightning_attention2.kernels.tiles import Tiles, choose, superchunk


def lightning_attention_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    *,
    scale: float,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    schedule: str,
) -> tuple[Tensor, Tensor]:
    """o and the final state; arguments as in operation.lightning_attention, checked there."""
    out: tuple[Tensor, Tensor] = _forward(q, k, v, decay, initial_state, cu_seqlens, scale, schedule)
    return out


@torch.library.custom_op("longatlas::lightning_forward", mutates_args=())
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    scale: float,
    schedule: str,
) -> tuple[Tensor, Tensor]:
    check_rates(decay)
    rates = decay.float()
    if cu_seqlens is None and q.shape[1] == 1:
        state = _new_state(q, v, None)
        return decode_step(q, k, v, rates, scale, initial_state, state), state
    work = _Work(q, v, cu_seqlens, schedule)
    o, state = torch.empty_like(v), _new_state(q, v, cu_seqlens)
    states = work.states(k, v, rates, before=initial_state, after=state)
    work.scan(q, k, v, rates, scale, out=o, states=states, after=state)
    return o, state


@_forward.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    scale: float,
    schedule: str,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(v), _new_state(q, v, cu_seqlens)


@torch.library.custom_op("longatlas::lightning_backward", mutates_args=())
def _backward(
    grad_o: Tensor,
    grad_state: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    scale: float,
    schedule: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and the initial state: the same scan, three times (see scan.py)."""
    rates, grad_o, grad_state = decay.float(), grad_o.contiguous(), grad_state.contiguous()
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    d_initial = _new_state(q, v, cu_seqlens)
    work = _Work(q, v, cu_seqlens, schedule)
    states = work.states(k, v, rates, before=initial_state)
    work.scan(grad_o, v, k, rates, scale, out=dq, states=states, swapped=True)
    states = work.states(q, grad_o, rates, scale, before=grad_state, after=d_initial, reverse=True)
    work.scan(k, q, grad_o, rates, scale, out=dv, states=states, after=d_initial, reverse=True)
    work.scan(v, grad_o, q, rates, scale, out=dk, states=states, reverse=True, swapped=True)
    return dq, dk, dv, d_initial


@_backward.register_fake
def _(
    grad_o: Tensor,
    grad_state: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    scale: float,
    schedule: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), _new_state(q, v, cu_seqlens)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.scale, ctx.schedule = inputs
    ctx.has_state = tensors[4] is not None
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, grad_o: Tensor, grad_state: Tensor) -> tuple[Tensor | None, ...]:
    dq, dk, dv, d_initial = _backward(grad_o, grad_state, *ctx.saved_tensors, ctx.scale, ctx.schedule)
    return dq, dk, dv, None, d_initial if ctx.has_state else None, None, None, None


_forward.register_autograd(_gradients, setup_context=_remember)


@torch.library.custom_op("longatlas::lightning_decode_", mutates_args=("state",))
def lightning_decode_triton(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, state: Tensor, scale: float) -> Tensor:
    """o, and `state` overwritten; arguments as in operation.lightning_decode_."""
    check_rates(decay)
    return decode_step(q, k, v, decay.float(), scale, state, state)


@lightning_decode_triton.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, state: Tensor, scale: float) -> Tensor:
    return torch.empty_like(v)


class _Work:
    """How one call is cut, for its forward and its backward scans alike."""

    def __init__(self, q: Tensor, v: Tensor, cu_seqlens: Tensor | None, schedule: str) -> None:
        batch, length, heads, _ = q.shape
        available = processors(q.device)
        if cu_seqlens is None:
            longest = superchunk(schedule, length, batch * heads, available)
            self.pieces = cut_evenly(batch, length, longest, q.device)
        else:
            longest = superchunk(schedule, length, heads, available)
            self.pieces = cut(tuple(sequence_bounds(cu_seqlens, q)), longest, q.device)
        self.is_cut = self.pieces.count > self.pieces.sequences

    def states(
        self,
        y: Tensor,
        z: Tensor,
        rates: Tensor,
        scale: float = 1.0,
        *,
        before: Tensor | None,
        after: Tensor | None = None,
        reverse: bool = False,
    ) -> Tensor | None:
        """The state before each piece; where sequences are whole that is `before`, and `scan` fills `after`."""
        if not self.is_cut:
            return before
        states = y.new_empty(self.pieces.count, y.shape[-2], y.shape[-1], z.shape[-1], dtype=torch.float32)
        tiles = self._tiles(y, z)
        scan(None, y, z, rates, self.pieces, tiles, scale=scale, state_after=states, reverse=reverse)
        carry(states, rates, self.pieces, state_before=before, state_after=after, reverse=reverse)
        return states

    def scan(
        self,
        x: Tensor,
        y: Tensor,
        z: Tensor,
        rates: Tensor,
        scale: float,
        *,
        out: Tensor,
        states: Tensor | None,
        after: Tensor | None = None,
        reverse: bool = False,
        swapped: bool = False,
    ) -> None:
        """One pass over all pieces, each from its state."""
        scan(
            x,
            y,
            z,
            rates,
            self.pieces,
            self._tiles(y, z),
            scale=scale,
            out=out,
            state_before=states,
            state_after=None if self.is_cut else after,
            reverse=reverse,
            swapped=swapped,
        )

    def _tiles(self, y: Tensor, z: Tensor) -> Tiles:
        return choose(y.dtype, y.shape[-1], z.shape[-1], self.pieces.count * y.shape[-2], y.device)


def _new_state(q: Tensor, v: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    sequences = q.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    return q.new_empty(sequences, q.shape[2], q.shape[3], v.shape[3], dtype=torch.float32)
