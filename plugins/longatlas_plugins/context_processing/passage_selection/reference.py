"""Passage selection by BM25 (Robertson & Zaragoza, 2009) in plain Python, with a dictionary per passage."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

Term = tuple[int, ...]


def select(tokens: Tensor, query_len: int, chunk_len: int, budget: int, ngram: int, k1: float, b: float) -> Tensor:
    """tokens [B, T] with T > budget -> [B, budget]."""
    rows = [_select_row(row, query_len, chunk_len, budget, ngram, k1, b) for row in tokens.tolist()]
    return torch.tensor(rows, dtype=tokens.dtype, device=tokens.device)


def _select_row(
    row: list[int], query_len: int, chunk_len: int, budget: int, ngram: int, k1: float, b: float
) -> list[int]:
    before, query = row[:-query_len], row[-query_len:]
    passages = [before[i : i + chunk_len] for i in range(0, len(before), chunk_len)]
    room = budget - query_len
    kept = {}
    if len(passages[-1]) < chunk_len:
        kept[len(passages) - 1] = passages[-1]
        room -= len(passages[-1])
    scores = bm25(passages, query, ngram, k1, b)
    for i in sorted(range(len(passages)), key=lambda i: (-round(scores[i], 9), -i)):
        if i not in kept:
            kept[i] = passages[i][max(chunk_len - room, 0) :]
            room -= len(kept[i])
    return [token for i in sorted(kept) for token in kept[i]] + query


def bm25(passages: Sequence[Sequence[int]], query: Sequence[int], ngram: int, k1: float, b: float) -> list[float]:
    """Σ over the query's distinct terms of idf(t) f (k1 + 1) / (f + k1 (1 - b + b |D| / mean |D|))."""
    counts = [Counter(_terms(passage, ngram)) for passage in passages]
    mean = sum(sum(c.values()) for c in counts) / len(counts)
    scores = [0.0] * len(passages)
    for term in sorted(set(_terms(query, ngram))):
        having = sum(1 for c in counts if term in c)
        idf = math.log(1 + (len(counts) - having + 0.5) / (having + 0.5))
        for i, c in enumerate(counts):
            f = c[term]
            if f:
                scores[i] += idf * f * (k1 + 1) / (f + k1 * (1 - b + b * sum(c.values()) / mean))
    return scores


def _terms(tokens: Sequence[int], ngram: int) -> list[Term]:
    return [tuple(tokens[i : i + ngram]) for i in range(len(tokens) - ngram + 1)]
