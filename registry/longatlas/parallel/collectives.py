"""Collectives with gradients: for a loss that every rank computes alike, each rank's gradients are those of one rank.

Source: Shoeybi et al., "Megatron-LM" (arXiv:1909.08053), section 3, whose f and g are `copy` and `reduce`. The
gradients of torch.distributed.nn's functions add up over the ranks instead: n times too much for one and the same loss.

Without a process group each returns what it was given. The ranks must call them in one order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn

from longatlas.parallel.shards import own_part, part, world


def copy(x: Tensor) -> Tensor:
    """x, which every rank goes on with on its own weights; backward adds up the ranks' gradients."""
    return x if world()[1] == 1 else _Copy.apply(x)  # type: ignore[no-untyped-call]


def reduce(x: Tensor) -> Tensor:
    """The sum of the ranks' x; backward hands the gradient, the same on every rank, to each."""
    return x if world()[1] == 1 else _Reduce.apply(x)  # type: ignore[no-untyped-call]


def scatter(x: Tensor, dim: int) -> Tensor:
    """This rank's part of x, which every rank has whole (see own_part); backward gathers the parts' gradients."""
    return x if world()[1] == 1 else _Scatter.apply(x, dim)  # type: ignore[no-untyped-call]


def gather(x: Tensor, dim: int, length: int) -> Tensor:
    """The whole, `length` long in `dim`, of which each rank has the part x; backward hands each its part's gradient."""
    return x if world()[1] == 1 else _Gather.apply(x, dim, length)  # type: ignore[no-untyped-call]


def ring(x: Tensor) -> Tensor:
    """What the rank before this one has given, of x's shape; the first is given the last's. Backward goes round the
    other way."""
    return x if world()[1] == 1 else _Ring.apply(x)  # type: ignore[no-untyped-call]


def sum_gradients(module: nn.Module) -> None:
    """Let the gradients of a module's weights be added up over the ranks as soon as backward has them.

    For whole weights of which each rank's use is a part of the work. A weight must get a gradient on every rank, which
    may be zero, and in each backward.
    """
    for parameter in module.parameters():
        parameter.register_hook(_sum)  # type: ignore[no-untyped-call]


class _Copy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _sum(gradient)


class _Reduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _sum(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int) -> Tensor:
        ctx.dim, ctx.length = dim, x.shape[dim]
        return _own(x, dim)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _all(gradient, ctx.dim, ctx.length), None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, length: int) -> Tensor:
        ctx.dim = dim
        return _all(x, dim, length)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _own(gradient, ctx.dim), None, None


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _pass_on(x, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _pass_on(gradient, -1)


def _sum(x: Tensor) -> Tensor:
    if world()[1] == 1:
        return x
    total = x.clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(total)
    return total


def _own(x: Tensor, dim: int) -> Tensor:
    mine = own_part(x.shape[dim])
    return x.narrow(dim, mine.start, mine.stop - mine.start).clone()


def _all(x: Tensor, dim: int, length: int) -> Tensor:
    """The parts side by side; they are made equally long on their way, as gloo wants them."""
    _, size = world()
    sizes = [stop - start for start, stop in (part(length, rank, size) for rank in range(size))]
    missing = list(x.shape)
    missing[dim] = sizes[0] - x.shape[dim]
    given = torch.cat([x, x.new_zeros(missing)], dim).contiguous()
    every = [torch.empty_like(given) for _ in sizes]
    distributed.all_gather(every, given)
    return torch.cat([each.narrow(dim, 0, its) for each, its in zip(every, sizes, strict=True)], dim)


def _pass_on(x: Tensor, step: int) -> Tensor:
    """What the rank `step` before this one has given."""
    rank, size = world()
    given, taken = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
    send = distributed.P2POp(distributed.isend, given, (rank + step) % size)
    receive = distributed.P2POp(distributed.irecv, taken, (rank - step) % size)
    for request in distributed.batch_isend_irecv([send, receive]):
        request.wait()
    return taken
