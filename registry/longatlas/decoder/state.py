"""Walks a state (a pytree of tensors): its bytes, measured and never declared."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils import _pytree


def tensors(state: Any) -> list[Tensor]:
    """All tensors of a pytree (NamedTuples, tuples, lists, dicts), in order."""
    return [leaf for leaf in _pytree.tree_leaves(state) if isinstance(leaf, Tensor)]


def state_bytes(state: Any) -> int:
    """Bytes of memory that a state keeps alive: whole storages, each counted once.

    A view counts with the whole storage behind it, because that is what cannot be freed.
    """
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors(state)}
    return sum(storages.values())
