"""Which keys each block of queries sees: worked out once for a mask_mod and a shape, then remembered."""

from __future__ import annotations

from collections.abc import Iterator
from types import FunctionType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional

from longatlas.ops.masks import visible
from longatlas.slots import MaskMod

KEY_BLOCK = 64
KEPT_ELEMENTS = 1 << 23  # of masks in one layout; beyond that a mask is made anew when it is used
KEPT_LAYOUTS = 16  # for one mask_mod

Runs = list[tuple[int, int]]


class Block(NamedTuple):
    """A block of queries.

    rows  its queries
    runs  [start, end) of the keys that some query of it sees, in whole blocks of keys
    all   whether every query sees every key of the runs
    seen  bool [B or 1, H or 1, rows, keys of the runs], or None when it is not kept
    """

    rows: slice
    runs: Runs
    all: bool
    seen: Tensor | None

    @property
    def keys(self) -> int:
        """Number of keys in the runs."""
        return sum(end - start for start, end in self.runs)

    def pick(self, x: Tensor, dim: int) -> Tensor:
        """The keys of the runs along `dim`; a view where there is one run."""
        parts = [x.narrow(dim, start, end - start) for start, end in self.runs]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


class Positions(NamedTuple):
    """Positions of queries [T] or [B, T] and of keys [S] or [B, S], and whether both are plain ranges.

    visible  bool [B or 1, H or 1, S]: keys that there are at all; None = all
    """

    q: Tensor
    k: Tensor
    ranges: bool
    visible: Tensor | None = None

    def rows(self, chosen: slice) -> Positions:
        """The same for some of the queries."""
        return self._replace(q=self.q[..., chosen])


_known: WeakKeyDictionary[Any, dict[tuple[Any, ...], list[Block]]] = WeakKeyDictionary()


def is_range(positions: Tensor) -> bool:
    """Whether each position is one more than the one before it."""
    return bool((positions[1:] - positions[:-1] == 1).all())


def layout(mask_mod: MaskMod, positions: Positions, batch: int, heads: int, block_size: int) -> list[Block]:
    """The blocks of a mask. Remembered for ranges of positions where the mask_mod cannot change its mind."""
    if not positions.ranges or positions.q.shape[-1] <= block_size or not _is_constant(mask_mod):
        return list(_blocks(mask_mod, positions, batch, heads, block_size))
    start = (int(positions.q[0]), int(positions.k[0]))
    key = (start, len(positions.q), len(positions.k), batch, heads, block_size, positions.q.device)
    known = _known.setdefault(mask_mod, {})
    if key not in known:
        while len(known) >= KEPT_LAYOUTS:
            known.pop(next(iter(known)))
        known[key] = list(_blocks(mask_mod, positions, batch, heads, block_size))
    return known[key]


def _is_constant(mask_mod: MaskMod) -> bool:
    """Whether a mask_mod promises it, or is a function that captures nothing but numbers and text."""
    if getattr(mask_mod, "constant", False):
        return True
    if not isinstance(mask_mod, FunctionType):
        return False
    captured = [cell.cell_contents for cell in mask_mod.__closure__ or ()]
    return all(isinstance(value, bool | int | float | str | None) for value in captured)


def _blocks(mask_mod: MaskMod, positions: Positions, batch: int, heads: int, block_size: int) -> Iterator[Block]:
    keys, kept = positions.k.shape[-1], 0
    for start in range(0, positions.q.shape[-1], block_size):
        rows = slice(start, start + block_size)
        seen = visible(mask_mod, positions.rows(rows).q, positions.k, batch, heads, positions.visible)
        padded = functional.pad(seen.flatten(0, 2).any(0), (0, -keys % KEY_BLOCK)).view(-1, KEY_BLOCK).any(1)
        block = Block(rows, _runs(padded.nonzero().flatten().tolist(), keys), False, None)
        mask = block.pick(seen, 3) if block.runs else seen[..., :0]
        if bool(mask.all()):
            block = block._replace(all=True)
        elif kept + mask.numel() <= KEPT_ELEMENTS:
            kept += mask.numel()
            block = block._replace(seen=mask.clone())
        yield block


def _runs(blocks: list[int], keys: int) -> Runs:
    runs: Runs = []
    for block in blocks:
        start, end = block * KEY_BLOCK, min(keys, (block + 1) * KEY_BLOCK)
        if runs and runs[-1][1] == start:
            runs[-1] = (runs[-1][0], end)
        else:
            runs.append((start, end))
    return runs
