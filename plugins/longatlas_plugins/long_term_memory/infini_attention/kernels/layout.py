"""How a call lies over segments, and the sizes of tiles."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from longatlas.kernels import capability, padded


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
    """queries, keys: tokens of a block; columns: of an output per program; part: of a head that is summed at a time."""

    queries: int
    keys: int
    columns: int
    part: int
    warps: int
    stages: int


# Local attention, forward, by dtype and capability: (queries, keys, columns, part, warps, stages), the usual one first.
_FORWARD = {
    (torch.bfloat16, 90): ((64, 64, 128, 128, 4, 3), (64, 32, 128, 128, 4, 2), (64, 32, 64, 64, 4, 2)),
    (torch.bfloat16, 80): ((64, 32, 64, 64, 4, 2), (32, 32, 64, 64, 4, 2)),
    (torch.float16, 90): ((64, 32, 64, 64, 4, 2),),
    (torch.float16, 80): ((32, 32, 32, 64, 4, 2),),
    (torch.float32, 90): ((16, 16, 32, 32, 4, 1),),
    (torch.float32, 80): ((16, 16, 32, 32, 4, 1),),
}
# What holds no softmax: sums over segments, gradients of the memory.
_MEMORY = {
    (torch.bfloat16, 90): (64, 64, 64, 64, 4, 2),
    (torch.bfloat16, 80): (32, 32, 64, 64, 4, 2),
    (torch.float16, 90): (32, 32, 32, 32, 4, 2),
    (torch.float16, 80): (32, 32, 32, 32, 4, 2),
    (torch.float32, 90): (16, 16, 32, 32, 4, 1),
    (torch.float32, 80): (16, 16, 32, 32, 4, 1),
}
_DELTA = {
    torch.bfloat16: (32, 32, 16, 256, 8, 1),
    torch.float16: (16, 16, 16, 256, 8, 1),
    torch.float32: (16, 16, 16, 256, 8, 1),
}


def candidates(dtype: torch.dtype, layout: Layout, capability: int) -> list[Tiles]:
    """Tiles worth trying for local attention."""
    table = _FORWARD[dtype, 90 if capability >= 90 else 80]
    return list(dict.fromkeys(_fitted(sizes, layout) for sizes in table))


def local_tiles(dtype: torch.dtype, layout: Layout, device: torch.device) -> Tiles:
    """The first of the candidates; few queries take the smallest block that tensor cores have."""
    tiles = candidates(dtype, layout, capability(device))[0]
    if layout.queries <= 16:
        return Tiles(16, tiles.keys, tiles.columns, tiles.part, tiles.warps, tiles.stages)
    return tiles


def memory_tiles(dtype: torch.dtype, layout: Layout, device: torch.device) -> Tiles:
    return _fitted(_MEMORY[dtype, 90 if capability(device) >= 90 else 80], layout)


def delta_tiles(dtype: torch.dtype, layout: Layout) -> Tiles:
    """The delta rule needs all of D at once, and so takes few columns of the memory."""
    return _fitted(_DELTA[dtype], layout)


def _fitted(sizes: tuple[int, ...], layout: Layout) -> Tiles:
    queries, keys, columns, part, warps, stages = sizes
    widest = max(padded(layout.features), padded(layout.columns))
    return Tiles(queries, keys, min(columns, widest), min(part, widest), warps, stages)
