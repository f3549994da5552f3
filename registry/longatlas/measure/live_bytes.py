"""Tensors watched at every operation, the same way on every device: their live bytes, and which are used."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensor storages made inside it that are still alive.

    peak  the most there were at once since the start, bytes. What existed before does not count, and neither does
          scratch memory inside a single operation.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._known: dict[int, weakref.finalize[Any, Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(hasattr(kind, "to_local") for kind in types):
            return NotImplemented  # a DTensor takes its operations apart, and they come here again
        given = {_identity(t) for t in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            if _identity(tensor) not in given:
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        # The storage object lives as long as its memory, so its end is the memory's end.
        name = storage._cdata
        if name in self._known:
            return
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        self._known[name] = weakref.finalize(storage, self._release, name, size)

    def _release(self, name: int, size: int) -> None:
        self._known.pop(name, None)
        self.live -= size


class UsedStorages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the storages of all tensors that operations are given inside it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._seen |= {_identity(t) for t in _tensors((args, kwargs))}
        return func(*args, **(kwargs or {}))

    def has(self, tensor: torch.Tensor) -> bool:
        """Whether an operation was given this tensor, or a view of it; ask while the tensor lives."""
        return _identity(tensor) in self._seen


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in _pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _identity(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
