"""How sequences are cut for the scan: whole ("fused"), or into superchunks that run side by side."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pieces:
    """Stretches of tokens that one program each scans.

    ranges     [count, 2] int64: first token and the one after the last, over all sequences one after the other
    bounds     [sequences + 1] int64: the pieces of each sequence
    """

    ranges: Tensor
    bounds: Tensor

    @property
    def count(self) -> int:
        return self.ranges.shape[0]

    @property
    def sequences(self) -> int:
        return self.bounds.shape[0] - 1


def cut(bounds: tuple[int, ...], longest: int | None, device: torch.device) -> Pieces:
    """Sequences [bounds[i], bounds[i + 1]) in pieces of at most `longest` tokens; None = whole.

    A sequence without tokens is one piece without tokens, so that every sequence has a state.
    """
    ranges: list[tuple[int, int]] = []
    starts = [0]
    for first, end in pairwise(bounds):
        step = longest or max(end - first, 1)
        ranges += [(start, min(start + step, end)) for start in range(first, max(end, first + 1), step)]
        starts.append(len(ranges))
    return Pieces(torch.tensor(ranges, device=device).reshape(-1, 2), torch.tensor(starts, device=device))


@lru_cache(maxsize=64)
def cut_evenly(batch: int, length: int, longest: int | None, device: torch.device) -> Pieces:
    """The same for `batch` sequences of one length; kept, so that a loop copies nothing to the device."""
    return cut(tuple(length * i for i in range(batch + 1)), longest, device)
