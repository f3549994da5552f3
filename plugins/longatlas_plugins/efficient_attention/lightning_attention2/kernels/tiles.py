"""Sizes of tiles for the scan, and whether sequences are cut."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from longatlas.kernels import capability, padded, processors

SCHEDULES = ("auto", "fused", "superchunks")
SHORTEST, LONGEST = 256, 2048  # tokens of a superchunk
WAVES = 2  # programs wanted per processor before sequences are left whole


@dataclass(frozen=True)
class Tiles:
    """What one program has in hand.

    chunk      tokens at a time
    features   of q and k, padded; where they have more, programs share them and their outputs are added up
    columns    of the state
    """

    chunk: int
    features: int
    columns: int
    warps: int
    stages: int


# (chunk, columns, warps, stages), the usual choice first and the one with most programs last, by dtype and padded
# features. Each fits into the registers and memory of the capability it is listed for: the tests compile them all.
_HALF = {
    16: ((32, 16, 4, 2),),
    32: ((32, 32, 4, 2),),
    64: ((32, 32, 4, 2),),
    128: ((32, 16, 4, 2),),
    256: ((16, 16, 8, 1),),
}
_FULL = {16: ((32, 16, 4, 2),), 32: ((32, 32, 4, 2), (32, 16, 4, 2)), 64: ((16, 32, 4, 2), (16, 16, 4, 2))}
_TABLES = {
    (torch.bfloat16, 80): {
        16: ((64, 16, 4, 2),),
        32: ((64, 32, 4, 3), (64, 32, 4, 2)),
        64: ((32, 64, 4, 2), (32, 32, 4, 2)),
        128: ((32, 32, 4, 3), (32, 32, 4, 2)),
        256: ((16, 16, 8, 1), (16, 16, 4, 1)),
    },
    (torch.bfloat16, 90): {
        16: ((64, 16, 4, 3), (64, 16, 4, 2)),
        32: ((64, 32, 4, 3), (64, 32, 4, 2)),
        64: ((64, 64, 4, 3), (64, 64, 4, 2), (64, 32, 4, 2), (32, 32, 4, 2)),
        128: ((64, 64, 8, 2), (64, 32, 4, 2), (32, 32, 4, 2)),
        256: ((64, 32, 8, 2), (16, 16, 4, 1)),
    },
    (torch.float16, 80): _HALF,
    (torch.float16, 90): {**_HALF, 256: ((16, 32, 8, 2), (16, 16, 8, 1))},
    (torch.float32, 80): _FULL,
    (torch.float32, 90): _FULL,
}


def candidates(dtype: torch.dtype, features: int, columns: int, capability: int) -> list[Tiles]:
    """Tiles worth trying for x, y with `features` and z with `columns`; the smallest only for sizes that are padded."""
    table = _TABLES[dtype, 90 if capability >= 90 else 80]
    held = min(padded(features), max(table))
    usual = table[held] if padded(features) == features and padded(columns) == columns else table[held][-1:]
    shapes = ((chunk, min(width, padded(columns)), warps, stages) for chunk, width, warps, stages in usual)
    return [Tiles(chunk, held, width, warps, stages) for chunk, width, warps, stages in dict.fromkeys(shapes)]


def choose(dtype: torch.dtype, features: int, columns: int, rows: int, device: torch.device) -> Tiles:
    """The first tiles with which `rows` (pieces times heads) fill the processors, else those with the most programs."""
    tiles = candidates(dtype, features, columns, capability(device))
    wanted = processors(device)
    filling = (t for t in tiles if rows * -(-columns // t.columns) >= wanted)
    return next(filling, tiles[-1])


def superchunk(schedule: str, length: int, rows: int, processors: int) -> int | None:
    """Tokens of a superchunk, None = sequences stay whole; rows = sequences times heads.

    Cutting costs a second pass over k and v and a state per superchunk in memory, so `auto` cuts only where whole
    sequences leave processors idle, and into no more pieces than fill them.
    """
    if schedule == "fused" or (schedule == "auto" and (rows >= processors or length <= SHORTEST)):
        return None
    pieces = max(1, -(-WAVES * processors // max(rows, 1)))
    wanted = -(-length // pieces)
    return min(LONGEST, max(SHORTEST, 1 << (wanted - 1).bit_length()))
