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


# (block, width, part, warps, stages) by kernel; each fits into the registers and memory of its capability.
_HOPPER = {
    torch.bfloat16: {
        "forward": (64, 128, 64, 8, 1),
        "query": (64, 64, 32, 8, 1),
        "key": (64, 128, 64, 8, 1),
        "distance": (64, 128, 64, 8, 1),
    },
    torch.float16: dict.fromkeys(("forward", "query", "key", "distance"), (64, 64, 32, 8, 1)),
    torch.float32: dict.fromkeys(("forward", "query", "key", "distance"), (16, 16, 16, 4, 1)),
}
_AMPERE = {
    torch.bfloat16: {
        "forward": (32, 64, 64, 4, 2),
        **dict.fromkeys(("query", "key"), (32, 32, 32, 4, 1)),
        "distance": (32, 32, 32, 4, 2),
    },
    torch.float16: {
        "forward": (32, 64, 64, 4, 2),
        **dict.fromkeys(("query", "key", "distance"), (32, 32, 32, 4, 2)),
    },
    torch.float32: dict.fromkeys(("forward", "query", "key", "distance"), (16, 16, 16, 4, 1)),
}
# Where heads up to a size would spill in the tiles above.
_SMALL = {
    ("query", torch.bfloat16, 90): (32, (32, 16, 16, 4, 1)),
    ("key", torch.float32, 80): (64, (16, 32, 32, 2, 1)),
}


def tiles_of(kernel: str, x: Tensor, layout: Layout) -> Tiles:
    """Tiles of the kernel "forward", "query", "key" or "distance", for tensors like x."""
    level = 90 if capability(x.device) >= 90 else 80
    sizes = (_HOPPER if level == 90 else _AMPERE)[x.dtype][kernel]
    widest = max(padded(layout.features), padded(layout.columns))
    largest, small = _SMALL.get((kernel, x.dtype, level), (0, sizes))
    block, width, part, warps, stages = small if widest <= largest else sizes
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
