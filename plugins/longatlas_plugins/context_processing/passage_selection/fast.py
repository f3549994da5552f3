"""Passage selection by BM25 (Robertson & Zaragoza, 2009) in tensors, in time linear in the length."""

from __future__ import annotations

import torch
from torch import Tensor

MULTIPLIER = 0x9E3779B97F4A7C15 - (1 << 64)
# Scores that agree to so many digits are ties, so that the order of summation decides nothing.
DIGITS = 9


def select(tokens: Tensor, query_len: int, chunk_len: int, budget: int, ngram: int, k1: float, b: float) -> Tensor:
    """tokens [B, T] with T > budget -> [B, budget]."""
    before, query = tokens[:, :-query_len], tokens[:, -query_len:]
    full = before.shape[1] // chunk_len
    rest = before[:, full * chunk_len :]
    chunks = before[:, : full * chunk_len].unflatten(1, (full, chunk_len))  # [B, C, chunk_len]
    rank = _ranks(bm25_scores(chunks, rest, query, ngram=ngram, k1=k1, b=b))
    room = budget - query_len - rest.shape[1] - rank * chunk_len
    kept = torch.arange(chunk_len - 1, -1, -1, device=tokens.device) < room[:, :, None]
    return torch.cat([chunks[kept].view(tokens.shape[0], -1), rest, query], 1)


def _ranks(scores: Tensor) -> Tensor:
    """The rank of each passage [B, C], 0 for the highest score; among equals the later one comes first."""
    last_first = scores.round(decimals=DIGITS).flip(1)
    order = last_first.argsort(dim=1, descending=True, stable=True)
    return order.argsort(1).flip(1)


def bm25_scores(chunks: Tensor, rest: Tensor, query: Tensor, *, ngram: int, k1: float = 1.2, b: float = 0.75) -> Tensor:
    """BM25 of each passage for the query's distinct n-grams, fp64 [B, C].

    chunks [B, C, L]; query [B, Q], Q >= ngram; rest [B, R] is a passage that counts in the statistics where
    R > 0, and gets no score.
    """
    terms = _hashes(query, ngram).sort(1).values  # [B, Q']
    documents = _hashes(chunks, ngram)  # [B, C, L']
    tf = _frequencies(documents, terms)
    sizes = torch.full((chunks.shape[1],), documents.shape[2], dtype=torch.float64, device=query.device)
    everything = tf
    if rest.shape[1]:
        leftover = _hashes(rest, ngram)[:, None]
        everything = torch.cat([tf, _frequencies(leftover, terms)], 1)
        sizes = torch.cat([sizes, sizes.new_tensor([leftover.shape[2]])])
    found = (everything > 0).double().sum(1, keepdim=True)  # [B, 1, Q']
    idf = torch.log1p((len(sizes) - found + 0.5) / (found + 0.5))
    norm = 1 - b + b * documents.shape[2] / sizes.mean()
    gain = tf * (k1 + 1) / (tf + k1 * norm)
    return torch.where(tf > 0, idf * gain, 0.0).sum(2)


def _hashes(x: Tensor, ngram: int) -> Tensor:
    """A 64-bit hash of each n-gram along the last dimension: [..., L] -> [..., max(L - ngram + 1, 0)]."""
    count = max(x.shape[-1] - ngram + 1, 0)
    x = x.long()
    total = torch.zeros_like(x[..., :count])
    for i in range(ngram):
        total = (total + x[..., i : i + count] + 1) * MULTIPLIER
    return total


def _frequencies(documents: Tensor, terms: Tensor) -> Tensor:
    """How often each term [B, Q'], ascending, occurs in each document [B, C, L']: fp64 [B, C, Q'].

    A term that stands twice in `terms` is counted at its first place only.
    """
    batch, count, _ = documents.shape
    flat = documents.flatten(1)
    place = torch.searchsorted(terms, flat).clamp_max(terms.shape[1] - 1)
    hit = (terms.gather(1, place) == flat).double()
    owner = torch.arange(count, device=terms.device)[:, None].expand(documents.shape[1:]).flatten()
    tf = hit.new_zeros(batch, count * terms.shape[1])
    return tf.scatter_add(1, owner * terms.shape[1] + place, hit).unflatten(1, (count, terms.shape[1]))
