"""Shapes of a call, and the sizes of tiles.

Queries, keys and distances are cut into blocks of one size, with keys aligned to the end of the queries, so that the
distances of a tile of queries i0 ... and keys j0 ... are those within a block of n * block = i0 + M - j0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from longatlas.kernels import capability, padded
from longatlas.kernels.primitives import DERIVED, PRECISION


@dataclass(frozen=True)
class Layout:
    """L queries after M keys of memory; reach: distances from 0 that are seen; clamp: the last distance of its own."""

    batch: int
    heads: int
    queries: int
    keys: int
    features: int
    columns: int
    reach: int
    clamp: int

    @property
    def memory(self) -> int:
        return self.keys - self.queries


def layout_of(q: Tensor, k: Tensor, v: Tensor, window: int | None, clamp_len: int | None) -> Layout:
    """q [B, L, H, D]; k, v [B, K, H, D|E]."""
    batch, queries, heads, features = q.shape
    reach = min(k.shape[1], window or k.shape[1])
    clamp = reach if clamp_len is None else min(reach, clamp_len)
    return Layout(batch, heads, queries, k.shape[1], features, v.shape[3], reach, clamp)


@dataclass(frozen=True)
class Tiles:
    """block: queries, keys and distances; width: columns of an output; part: features summed at a time."""

    block: int
    width: int
    part: int
    warps: int
    stages: int


# (block, width, part, warps, stages) by dtype and capability, the usual choice first.
_FORWARD = {
    (torch.bfloat16, 90): ((64, 128, 128, 4, 2), (64, 64, 64, 4, 2)),
    (torch.bfloat16, 80): ((32, 64, 64, 4, 2),),
    (torch.float16, 90): ((64, 64, 64, 4, 2),),
    (torch.float16, 80): ((32, 64, 64, 4, 2),),
    (torch.float32, 90): ((16, 32, 32, 4, 1),),
    (torch.float32, 80): ((16, 32, 32, 4, 1),),
}
_BACKWARD = {
    (torch.bfloat16, 90): (64, 64, 64, 4, 1),
    (torch.bfloat16, 80): (32, 32, 64, 4, 2),
    (torch.float16, 90): (32, 32, 32, 4, 2),
    (torch.float16, 80): (32, 32, 32, 4, 2),
    (torch.float32, 90): (16, 32, 32, 4, 1),
    (torch.float32, 80): (16, 32, 32, 4, 1),
}


def candidates(dtype: torch.dtype, layout: Layout, capability: int) -> list[Tiles]:
    """Tiles worth trying for the forward pass."""
    return list(dict.fromkeys(_fitted(sizes, layout) for sizes in _FORWARD[dtype, 90 if capability >= 90 else 80]))


def forward_tiles(q: Tensor, layout: Layout) -> Tiles:
    return candidates(q.dtype, layout, capability(q.device))[0]


def backward_tiles(q: Tensor, layout: Layout) -> Tiles:
    return _fitted(_BACKWARD[q.dtype, 90 if capability(q.device) >= 90 else 80], layout)


def _fitted(sizes: tuple[int, ...], layout: Layout) -> Tiles:
    block, width, part, warps, stages = sizes
    widest = max(padded(layout.features), padded(layout.columns))
    return Tiles(block, min(width, widest), min(part, widest), warps, stages)


RUNTIME = ["queries", "keys", "heads", "reach", "clamp"]


def shape_arguments(layout: Layout, tiles: Tiles, dtype: torch.dtype) -> dict[str, Any]:
    """What every kernel is told of the shape, by the names of its parameters."""
    return {
        "queries": layout.queries,
        "keys": layout.keys,
        "heads": layout.heads,
        "reach": layout.reach,
        "clamp": layout.clamp,
        "FEATURES": layout.features,
        "COLUMNS": layout.columns,
        "BLOCK": tiles.block,
        "WIDTH": tiles.width,
        "PART": tiles.part,
        "DERIVED": DERIVED[dtype],
        "PRECISION": PRECISION[dtype],
        "warps": tiles.warps,
        "stages": tiles.stages,
    }
