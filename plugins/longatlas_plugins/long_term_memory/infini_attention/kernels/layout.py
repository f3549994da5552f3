"""How a call lies over segments, and the sizes of tiles."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from longatlas.kernels import capability, padded
from longatlas.kernels.primitives import DERIVED, PRECISION


@dataclass(frozen=True)
class Layout:
    """Tokens of the unfinished segment come first, then those of the call; both are cut at segment borders.

    batch, heads, kv_heads
    queries      T, tokens of the call
    keys         T and the tokens begun before it
    segment_len  N
    first        index of the first segment touched, counted from the start of the sequence
    features     D; columns: E
    """

    batch: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    segment_len: int
    first: int
    features: int
    columns: int

    @property
    def begun(self) -> int:
        return self.keys - self.queries

    @property
    def widest(self) -> int:
        """The larger of D and E, padded."""
        return max(padded(self.features), padded(self.columns))

    @property
    def segments(self) -> int:
        """Touched, the unfinished last one included."""
        return -(-self.keys // self.segment_len)

    @property
    def whole(self) -> int:
        """Segments that are complete after the call."""
        return self.keys // self.segment_len

    def blocks(self, size: int, start: int = 0) -> tuple[int, int, int]:
        """Blocks of `size` tokens that end at segment borders, from the one with token `start`: the number of the first
        of them, how many there are in all, and in each whole segment."""
        each = -(-self.segment_len // size)
        rest = self.keys - (self.segments - 1) * self.segment_len
        first = start // self.segment_len * each + start % self.segment_len // size
        return first, (self.segments - 1) * each + -(-rest // size) - first, each


def layout_of(q: Tensor, k: Tensor, v: Tensor, segment_len: int, position: int) -> Layout:
    """q [B, T, H, D]; k, v [B, begun + T, Hkv, D|E]; position: tokens read before q."""
    batch, queries, heads, features = q.shape
    first = (position - (k.shape[1] - queries)) // segment_len
    return Layout(batch, heads, k.shape[2], queries, k.shape[1], segment_len, first, features, v.shape[3])


@dataclass(frozen=True)
class Tiles:
    """What one program has in hand.

    queries, keys  tokens of a block
    columns        of an output
    part           of a head that is summed at a time
    registers      per thread at most, where the compiler left alone would spill a few for one more program
    """

    queries: int
    keys: int
    columns: int
    part: int
    warps: int
    stages: int
    registers: int | None = None


# By largest head: (queries, keys, columns, part, warps, stages[, registers]); each fits where used.
Table = dict[tuple[torch.dtype, int], dict[int, tuple[int, ...]]]
_LOCAL: Table = {
    (torch.bfloat16, 90): {128: (128, 64, 128, 128, 8, 2), 256: (64, 64, 128, 64, 8, 2)},
    (torch.bfloat16, 80): {128: (64, 32, 64, 64, 4, 2), 256: (32, 32, 64, 64, 4, 2)},
    (torch.float16, 90): {256: (64, 32, 64, 64, 4, 2)},
    (torch.float16, 80): {256: (32, 32, 32, 64, 4, 2)},
    (torch.float32, 90): {256: (16, 16, 16, 16, 4, 1)},
    (torch.float32, 80): {256: (16, 16, 16, 16, 4, 1)},
}
# What is made of sums over segments, and all gradients.
_MEMORY: Table = {
    (torch.bfloat16, 90): {256: (64, 64, 128, 64, 8, 1)},
    (torch.bfloat16, 80): {128: (32, 32, 64, 64, 4, 1, 255), 256: (32, 32, 32, 32, 4, 2)},
    (torch.float16, 90): {64: (32, 32, 32, 32, 4, 1, 255), 256: (32, 32, 32, 32, 4, 1)},
    (torch.float16, 80): {256: (32, 32, 32, 32, 4, 2)},
    (torch.float32, 90): {256: (16, 16, 16, 16, 4, 1, 255)},
    (torch.float32, 80): {256: (16, 16, 16, 16, 4, 1, 255)},
}
_DELTA = {
    torch.bfloat16: (32, 32, 16, 256, 8, 1),
    torch.float16: (16, 16, 16, 256, 8, 1),
    torch.float32: (16, 16, 16, 256, 8, 1),
}
FEW_QUERIES = 16  # the smallest block that tensor cores have


def local_tiles(dtype: torch.dtype, layout: Layout, device: torch.device) -> Tiles:
    """Of local attention."""
    tiles = _chosen(_LOCAL, dtype, layout, device)
    return replace(tiles, queries=16) if layout.queries <= FEW_QUERIES else tiles


def memory_tiles(dtype: torch.dtype, layout: Layout, device: torch.device) -> Tiles:
    """Of all else but the delta rule."""
    return _chosen(_MEMORY, dtype, layout, device)


def delta_tiles(dtype: torch.dtype, layout: Layout) -> Tiles:
    """The delta rule needs all of D at once, and so takes few columns of the memory."""
    return _fitted(_DELTA[dtype], layout)


def _chosen(table: Table, dtype: torch.dtype, layout: Layout, device: torch.device) -> Tiles:
    sizes = table[dtype, 90 if capability(device) >= 90 else 80]
    return _fitted(next(sizes[largest] for largest in sorted(sizes) if layout.widest <= largest), layout)


def _fitted(sizes: tuple[int, ...], layout: Layout) -> Tiles:
    queries, keys, columns, part, warps, stages, *registers = sizes
    return Tiles(queries, keys, min(columns, layout.widest), min(part, layout.widest), warps, stages, *registers)


RUNTIME = ["queries", "keys", "segments", "segment_len", "first_segment", "heads", "groups", "first_block", "each"]


def shape_arguments(layout: Layout, tiles: Tiles, dtype: torch.dtype) -> dict[str, Any]:
    """What every kernel of queries and segments is told of the shape, by the names of its parameters."""
    return {
        "queries": layout.queries,
        "keys": layout.keys,
        "segments": layout.segments,
        "segment_len": layout.segment_len,
        "first_segment": layout.first,
        "heads": layout.heads,
        "groups": layout.heads // layout.kv_heads,
        "FEATURES": layout.features,
        "COLUMNS": layout.columns,
        **numeric_arguments(tiles, dtype),
    }


def numeric_arguments(tiles: Tiles, dtype: torch.dtype) -> dict[str, Any]:
    """How products are made, and how a program is started."""
    return {
        "DERIVED": DERIVED[dtype],
        "PRECISION": PRECISION[dtype],
        "warps": tiles.warps,
        "stages": tiles.stages,
        "registers": tiles.registers,
    }
