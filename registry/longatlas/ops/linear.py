"""Causal linear attention with decay, by chunks: the tiling of Lightning Attention-2 (arXiv:2401.04658)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from longatlas.ops.arguments import check_positive, check_qkv, check_shape
from longatlas.ops.pages import with_huge_pages

# Elements of q in a superchunk, over all batches and heads: on a CPU what is worked on at once should stay in
# the cache, elsewhere few launches count.
SUPERCHUNK_ELEMENTS = {"cpu": 1 << 18}
SUPERCHUNK_ELEMENTS_ELSEWHERE = 1 << 24
# Fewer chunks would mean many states kept for the backward pass, more a large matrix of decays between them.
MIN_CHUNKS, MAX_CHUNKS = 8, 64


Pair = tuple[Tensor, Tensor]


class Decays(NamedTuple):
    """Powers of λ = exp(-decay) for chunks of C tokens, n of them in a superchunk; never a quotient.

    within   [H, 1, C, C]     λ^(i-j) for j <= i, else 0
    read     [H, 1, C, 1]     λ^(i+1), from the state before the chunk to token i
    write    [H, 1, C, 1]     λ^(C-1-j), from token j to the state after the chunk
    between  [H, n+1, n+1]    λ^(C(c-b)) for b <= c, else 0: from the start (b = 0) or chunk b to state c
    """

    within: Tensor
    read: Tensor
    write: Tensor
    between: Tensor


def chunked_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    decay: Tensor | None = None,
    scale: float = 1.0,
    initial_state: Tensor | None = None,
    chunk: int = 64,
) -> tuple[Tensor, Tensor]:
    """S_t = exp(-decay) S_{t-1} + k_t^T v_t, o_t = scale q_t S_t, a chunk of tokens at a time.

    q, k [B, T, H, D]; v [B, T, H, E]; decay [H] >= 0, None = no decay; returns o [B, T, H, E] in v's dtype
    and the final state [B, H, D, E] in fp32 (fp64 for fp64 inputs). `initial_state` has the state's shape.
    Gradients flow to q, k, v, decay and the initial state, once (no second derivatives where T > 1). Any T, 0
    included. `chunk` is C, in tokens.

    Raises LongAtlasError where shapes do not fit, or `chunk` is not positive.
    """
    _check(q, k, v, decay, initial_state, chunk)
    batch, length, heads, size = q.shape
    dtype = torch.promote_types(q.dtype, torch.float32)
    if decay is None:
        decay = torch.zeros(heads, dtype=dtype, device=q.device)
    if initial_state is None:
        initial_state = torch.zeros(batch, heads, size, v.shape[-1], dtype=dtype, device=q.device)
    decay, state = decay.to(dtype), initial_state.to(dtype)
    if length == 0 or 0 in q.shape or 0 in v.shape:
        return torch.zeros_like(v), state
    if length == 1:
        return _step(q, k, v, decay, scale, state)
    inputs = (q, k, v, decay, state, scale, chunk)
    out: tuple[Tensor, Tensor] = _Chunked.apply(*inputs)  # type: ignore[no-untyped-call]
    return out


def _check(q: Tensor, k: Tensor, v: Tensor, decay: Tensor | None, initial_state: Tensor | None, chunk: int) -> None:
    check_qkv(q, k, v)
    batch, _, heads, size = q.shape
    if decay is not None:
        check_shape("decay", decay, "H", (heads,))
    if initial_state is not None:
        check_shape("initial_state", initial_state, "B H D E", (batch, heads, size, v.shape[3]))
    check_positive(chunk=chunk)


def _step(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, scale: float, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token: T = 1."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # [B, H, 1, D]
    keep = torch.exp(-decay)[:, None, None]
    state = torch.addcmul(keep * state, k.mT.to(state.dtype), v.to(state.dtype))
    o = (scale * q.to(state.dtype)) @ state
    return o.transpose(1, 2).to(v.dtype), state


def _powers(decay: Tensor, exponent: Tensor) -> Tensor:
    """exp(-decay * exponent) [H, ...] where exponent >= 0, else 0; the mask comes before exp."""
    rate = decay.view(-1, *[1] * exponent.ndim)
    return torch.exp(-rate * exponent.clamp(min=0)) * (exponent >= 0)


def _decays(decay: Tensor, chunk: int, count: int) -> Decays:
    i = torch.arange(chunk, device=decay.device)
    c = torch.arange(count + 1, device=decay.device)
    return Decays(
        within=_powers(decay, i[:, None] - i)[:, None],
        read=_powers(decay, i + 1)[:, None, :, None],
        write=_powers(decay, chunk - 1 - i)[:, None, :, None],
        between=_powers(decay, chunk * (c[:, None] - c)),
    )


def _pieces(q: Tensor, chunk: int) -> list[tuple[int, int, int]]:
    """Superchunks (start, chunks, tokens in a chunk); what is no whole chunk at the end is one of its own."""
    batch, length, heads, size = q.shape
    elements = SUPERCHUNK_ELEMENTS.get(q.device.type, SUPERCHUNK_ELEMENTS_ELSEWHERE)
    per_piece = min(MAX_CHUNKS, max(MIN_CHUNKS, elements // (batch * heads * size * chunk)))
    whole, rest = divmod(length, chunk)
    pieces = [(i * chunk, min(per_piece, whole - i), chunk) for i in range(0, whole, per_piece)]
    return pieces + ([(whole * chunk, 1, rest)] if rest else [])


def _layout(q: Tensor, decay: Tensor, chunk: int) -> Iterator[tuple[slice, int, int, Decays]]:
    """Each superchunk's tokens, number of chunks, tokens in a chunk, and decays."""
    made: dict[tuple[int, int], Decays] = {}
    for start, count, tokens in _pieces(q, chunk):
        if (count, tokens) not in made:
            made[count, tokens] = _decays(decay, tokens, count)
        yield slice(start, start + count * tokens), count, tokens, made[count, tokens]


def _chunks(x: Tensor, count: int, tokens: int, dtype: torch.dtype) -> Tensor:
    """[B, n*C, H, D] -> [B, H, n, C, D], contiguous, in `dtype`."""
    batch, _, heads, size = x.shape
    out = torch.empty(batch, heads, count, tokens, size, dtype=dtype, device=x.device)
    return out.copy_(x.reshape(batch, count, tokens, heads, size).permute(0, 3, 1, 2, 4))


def _put(x: Tensor, out: Tensor) -> None:
    """Write x [B, H, n, C, D] over out [B, n*C, H, D]."""
    batch, heads, count, tokens, size = x.shape
    out.view(batch, count, tokens, heads, size).copy_(x.permute(0, 2, 3, 1, 4))


def _states(k: Tensor, v: Tensor, state: Tensor, decays: Decays) -> Tensor:
    """The state before each chunk and after the last, [B, H, n+1, D, E]."""
    updates = (k * decays.write).mT @ v
    parts = torch.cat([state.unsqueeze(2), updates], 2)
    return (decays.between @ parts.flatten(3)).view(parts.shape)


class _Chunked(torch.autograd.Function):
    """Forward and backward a superchunk at a time; keeps q, k, v and the states between superchunks."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, state: Tensor, scale: float, chunk: int
    ) -> tuple[Tensor, Tensor]:
        out = with_huge_pages(torch.empty_like(v, memory_format=torch.contiguous_format))
        starts = []
        with torch.autocast(q.device.type, enabled=False):
            for where, count, tokens, decays in _layout(q, decay, chunk):
                starts.append(state)
                q_, k_, v_ = (_chunks(x[:, where], count, tokens, state.dtype) for x in (q, k, v))
                o, state = _forward(q_, k_, v_, state, decays, scale)
                _put(o, out[:, where])
        ctx.save_for_backward(q, k, v, decay, *starts)
        ctx.scale, ctx.chunk = scale, chunk
        return out, state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor, d_state: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, decay, *starts = ctx.saved_tensors
        grads = [with_huge_pages(torch.empty_like(x, memory_format=torch.contiguous_format)) for x in (q, k, v)]
        ctx.with_decay = ctx.needs_input_grad[3]
        d_decay = torch.zeros_like(decay) if ctx.with_decay else None
        with torch.autocast(q.device.type, enabled=False):
            pieces = list(_layout(q, decay, ctx.chunk))
            for (where, count, tokens, decays), start in zip(reversed(pieces), reversed(starts), strict=True):
                inputs = [_chunks(x[:, where], count, tokens, decay.dtype) for x in (q, k, v, d_out)]
                *found, d_state, d_log = _backward(inputs, start, d_state, decays, ctx.scale, ctx.with_decay)
                for grad, part in zip(grads, found, strict=True):
                    _put(part, grad[:, where])
                if d_decay is not None:
                    d_decay -= d_log
        return *grads, d_decay, d_state, None, None


def _forward(q: Tensor, k: Tensor, v: Tensor, state: Tensor, decays: Decays, scale: float) -> tuple[Tensor, Tensor]:
    """One superchunk: q, k, v [B, H, n, C, D or E] -> o of v's shape and the state after it."""
    states = _states(k, v, state, decays)
    scores = (q @ k.mT).mul_(decays.within)
    # O = [(Q K^T) ⊙ M] V + Λ Q (KV): the paper's intra-block and inter-block parts.
    o = (scores @ v).add_((q * decays.read) @ states[:, :, :-1])
    return o.mul_(scale), states[:, :, -1].clone()


def _backward(
    inputs: list[Tensor], state: Tensor, d_state: Tensor, decays: Decays, scale: float, with_decay: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One superchunk: gradients to q, k, v, state and log λ, given those to o and to the state after it."""
    q, k, v, d_out = inputs
    d_out = d_out.mul_(scale)
    states = _states(k, v, state, decays)
    # The gradient to the state after each chunk obeys the same recurrence, backwards in time.
    reads = (q * decays.read).mT @ d_out
    parts = torch.cat([reads, d_state.unsqueeze(2)], 2)
    d_states = (decays.between.mT @ parts.flatten(3)).view(parts.shape)
    after = d_states[:, :, 1:]
    scores = (q @ k.mT).mul_(decays.within)
    d_v = (scores.mT @ d_out).add_((k * decays.write) @ after)
    d_scores = d_out @ v.mT
    read, write = (d_out @ states[:, :, :-1].mT).mul_(decays.read), (v @ after.mT).mul_(decays.write)
    rate = (
        _rate((scores, d_scores), (q, read), (k, write), (states[:, :, :-1], after), decays) if with_decay else d_state
    )
    d_scores = d_scores.mul_(decays.within)
    return (d_scores @ k).add_(read), (d_scores.mT @ q).add_(write), d_v, d_states[:, :, 0].clone(), rate


def _rate(inside: Pair, reading: Pair, writing: Pair, states: Pair, decays: Decays) -> Tensor:
    """The gradient to log λ [H]: each power of λ times its exponent, where it stands.

    Pairs multiply to a term of the loss's first order: scores and their gradient, q and what it reads, k and what it
    writes, the states before each chunk and the gradients to those after it. No term is the difference of others, so
    strong decays lose no digits.
    """
    tokens = decays.within.shape[-1]
    place = torch.arange(tokens, device=decays.within.device, dtype=decays.within.dtype)
    scores, d_scores = inside
    spans = (scores * d_scores * (place[:, None] - place)).sum((-1, -2))
    reads = (reading[0] * reading[1]).sum(-1) @ (place + 1)
    writes = (writing[0] * writing[1]).sum(-1) @ (tokens - 1 - place)
    kept = tokens * decays.between[:, 1, :1] * (states[0] * states[1]).sum((-1, -2))
    return (spans + reads + writes + kept).sum((0, 2))
