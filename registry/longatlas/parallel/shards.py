"""Who a rank is, which part of a tensor is its own, and how parts become whole again."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed
from torch.utils import _pytree


class Shard(NamedTuple):
    """A tensor of a state of which each rank holds a part: the parts follow one another along `dim`, by rank."""

    part: Tensor
    dim: int


def world() -> tuple[int, int]:
    """This rank and the number of ranks; (0, 1) without a process group."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def own_part(length: int) -> slice:
    """The part of `length` items that is this rank's: as torch.tensor_split cuts, so parts may be empty."""
    rank, size = world()
    return slice(*part(length, rank, size))


def part(length: int, rank: int, size: int) -> tuple[int, int]:
    """The first item of a rank, and the first of the next."""
    least, more = divmod(length, size)
    start = rank * least + min(rank, more)
    return start, start + least + (rank < more)


def whole(tree: Any) -> Any:
    """A pytree whose Shards and DTensors are made whole, as plain tensors; every rank must call it."""
    return _pytree.tree_map(_whole, tree, is_leaf=lambda leaf: isinstance(leaf, Shard))


def _whole(leaf: Any) -> Any:
    if isinstance(leaf, Shard):
        parts: list[Any] = [leaf.part] * world()[1]
        if len(parts) > 1:
            distributed.all_gather_object(parts, leaf.part.detach())
        return torch.cat([each.to(leaf.part.device) for each in parts], leaf.dim)
    return leaf.full_tensor() if hasattr(leaf, "full_tensor") else leaf


def returned(tree: Any) -> Any:
    """A result with its tensors on the CPU, without graphs, and no larger than what is seen of them."""
    return _pytree.tree_map(lambda leaf: leaf.detach().cpu().clone() if isinstance(leaf, Tensor) else leaf, tree)
