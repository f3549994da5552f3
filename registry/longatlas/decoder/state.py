"""The states that a decoder carries, and a walk over any of them: its bytes, measured and never declared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree

from longatlas.errors import LongAtlasError
from longatlas.slots import Here


class BlockState(NamedTuple):
    """conv: the last inputs of the short convolution, or None; mixer: the mixer's own state, or None."""

    conv: Tensor | None
    mixer: Any


class DecoderState(NamedTuple):
    """What a decoder carries between calls.

    position  the clock: tokens read
    layers    each layer's state; () where nothing was read: DecoderState(p) starts a sequence at position p
    """

    position: int = 0
    layers: tuple[BlockState, ...] = ()


class Clocked(NamedTuple):
    """The state of a part that is used without a decoder, with the clock that a decoder would keep for it."""

    position: int = 0
    inner: Any = None


def clocked(module: Callable[..., tuple[Tensor, Any]]) -> Callable[[Tensor, Clocked | None], tuple[Tensor, Clocked]]:
    """A mixer or block that asks where it stands, as a function (x [B, T, ...], state) -> (y, state) with a clock."""

    def call(x: Tensor, state: Clocked | None = None) -> tuple[Tensor, Clocked]:
        start, inner = state or Clocked()
        y, inner = module(x, inner, here(start, x))
        return y, Clocked(start + x.shape[1], inner)

    return call


def here(
    start: int,
    like: Tensor,
    *,
    positions: Tensor | None = None,
    places: Tensor | None = None,
    visible: Tensor | None = None,
) -> Here:
    """Where a call of `like` [B, T, ...] stands whose sequence has had `start` tokens.

    positions, places, visible  as in longatlas.Here; None = start ... start + T - 1, the positions, and all

    Raises LongAtlasError for shapes that do not fit, and for places in a sequence that has begun.
    """
    batch, length = like.shape[:2]
    for name, given in (("positions", positions), ("places", places), ("visible", visible)):
        by_row = (batch, length)
        if given is not None and tuple(given.shape) not in ((by_row,) if name == "visible" else ((length,), by_row)):
            raise LongAtlasError(f"{name} is {list(given.shape)}; tokens are {list(by_row)}: give one for each of them")
    if places is not None and (start or positions is not None):
        raise LongAtlasError("places are drawn for whole sequences in training; this call has a state or positions")
    if positions is None:
        positions = torch.arange(start, start + length, device=like.device)
    return Here(start, positions, places, visible)


def tensors(state: Any) -> list[Tensor]:
    """All tensors of a pytree (NamedTuples, tuples, lists, dicts), in order."""
    return [leaf for leaf in _pytree.tree_leaves(state) if isinstance(leaf, Tensor)]


def state_bytes(state: Any) -> int:
    """Bytes of memory that a state keeps alive: whole storages, each counted once.

    A view counts with the whole storage behind it, because that is what cannot be freed.
    """
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors(state)}
    return sum(storages.values())


def detached(state: Any) -> Any:
    """A state with the same values and no graph."""
    return _pytree.tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, state)
