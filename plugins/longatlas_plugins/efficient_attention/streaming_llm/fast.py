"""StreamingLLM by blocks of queries (arXiv:2309.17453): every query gets exactly the cache it would see alone.

Once the cache is full a query stands at place s + W - 1 of it, so its distance to a sink no longer grows; distances
inside the window are the true ones. Two rotations of the query are therefore enough, whatever its position.
"""

from __future__ import annotations

import torch
from torch import Tensor

from longatlas import Where
from longatlas.ops.masks import indices

BLOCK = 128


def attend(q: Tensor, k: Tensor, v: Tensor, where: Where, *, sinks: int, window: int) -> Tensor:
    """q [B, T, H, D]; k [B, S, H, D]; v [B, S, H, E], all before rotation; o [B, T, H, E]."""
    in_cache = where.q_positions.clamp(max=sinks + window - 1)
    q_to_sinks = q_to_window = q
    if where.rotate is not None:
        q_to_sinks = where.rotate(q, q, in_cache)[0]
        q_to_window = where.rotate(q, q, where.q_positions)[0]
        k = where.rotate(k, k, where.k_positions)[1]
    q_to_sinks, q_to_window, k, v = (x.transpose(1, 2) for x in (q_to_sinks, q_to_window, k, v))  # [B, H, T, D]
    first = int((where.k_positions < sinks).sum())
    outputs = []
    for start in range(0, q.shape[1], BLOCK):
        rows = slice(start, start + BLOCK)
        places = where.q_positions[rows]
        recent = _recent(where.k_positions, places, first, window)
        scores = torch.cat(
            [
                _scores(q_to_sinks[:, :, rows], k[:, :, :first], in_cache[rows], where.k_positions[:first], where),
                _scores(q_to_window[:, :, rows], k[:, :, recent], places, where.k_positions[recent], where),
            ],
            -1,
        )
        k_places = torch.cat([where.k_positions[:first], where.k_positions[recent]])
        distance = places[:, None] - k_places
        seen = (distance >= 0) & ((distance < window) | (k_places < sinks))
        weights = torch.softmax(scores.masked_fill(~seen, float("-inf")), -1)
        outputs.append(weights @ torch.cat([v[:, :, :first], v[:, :, recent]], 2))
    return torch.cat(outputs, 2).transpose(1, 2)


def _recent(k_positions: Tensor, places: Tensor, first: int, window: int) -> slice:
    """Where the keys after the sinks stand that some query of the block sees."""
    start = int(torch.searchsorted(k_positions, places[0] - window + 1))
    end = int(torch.searchsorted(k_positions, places[-1], right=True))
    return slice(max(start, first), max(end, first))


def _scores(q: Tensor, k: Tensor, q_positions: Tensor, k_positions: Tensor, where: Where) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)
    if where.score_mod is None:
        return scores
    modified: Tensor = where.score_mod(scores, *indices(q_positions, k_positions, *q.shape[:2]))
    return modified
