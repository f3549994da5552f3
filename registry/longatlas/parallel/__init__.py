"""Ranks: several processes that compute one method together, over torch.distributed.

    the caller                              launcher process                 ranks
    Launcher.run(n, function) ----------->  forks (torch is loaded) ----->   function(rank, n, *arguments)
    results <-- files in a folder --------  waits, names who failed <-----   each with the process group of all

A method that computes with several ranks says `ranks=True` on its card. All ranks do the same (SPMD): each builds the
same decoder from the same seed, is given the same whole tokens, and returns the same whole logits; what lies between is
the method's. Without a process group `world()` is (0, 1), and it computes alone.

gradients  After a backward of one and the same loss of the whole logits on every rank, each rank holds the gradients
           that one rank alone would: of whole weights whole, of sharded ones its shard. `copy`, `reduce`, `scatter`,
           `gather` and `ring` have gradients that add up to that; `sum_gradients` is for whole weights that each rank
           uses on its part alone.
state      What a rank holds a part of, by sequence or by heads, is a Shard(part, dim). What is no Shard is whole, and
           the same on every rank.
weights    Sharded by torch.distributed.tensor (DTensor, parallelize_module), or whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from longatlas.lazy import lazy_exports
from longatlas.parallel.launcher import Launcher, RankError, run

if TYPE_CHECKING:
    from longatlas.parallel.collectives import copy, gather, reduce, ring, scatter, sum_gradients
    from longatlas.parallel.shards import Shard, own_part, whole, world

__all__ = [
    "Launcher",
    "RankError",
    "Shard",
    "copy",
    "gather",
    "own_part",
    "reduce",
    "ring",
    "run",
    "scatter",
    "sum_gradients",
    "whole",
    "world",
]

__getattr__ = lazy_exports(
    __name__,
    {
        **dict.fromkeys(("copy", "gather", "reduce", "ring", "scatter", "sum_gradients"), ".collectives"),
        **dict.fromkeys(("Shard", "own_part", "whole", "world"), ".shards"),
    },
)
