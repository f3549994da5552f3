"""Passage selection: checks the sizes, chooses the implementation."""

from __future__ import annotations

from torch import Tensor

from longatlas import LongAtlasError
from longatlas.ops.arguments import check_choice, check_positive
from longatlas_plugins.context_processing.passage_selection import fast, reference

IMPLS = ("auto", "reference", "torch")


def select_passages(
    tokens: Tensor,
    *,
    query_len: int = 64,
    chunk_len: int = 64,
    budget: int = 512,
    ngram: int = 4,
    k1: float = 1.2,
    b: float = 0.75,
    impl: str = "auto",
) -> Tensor:
    """The tokens worth reading: passages that match the query, in their order, then the query.

    tokens [B, T], integers; returns [B, min(T, budget)]. The last `query_len` tokens are the query; passages
    of `chunk_len` tokens are cut from the start. The unfinished one before the query is always kept, the
    others by rank until the budget is full, the last of them without its beginning. BM25 (Robertson and
    Zaragoza, 2009) over n-grams of `ngram` tokens ranks them, each sequence by itself; n-grams are told apart
    by a 64-bit hash in impl "torch" and exactly in "reference". Raises LongAtlasError for sizes that do not
    fit.
    """
    check_sizes(query_len, chunk_len, budget, ngram)
    if tokens.ndim != 2 or tokens.is_floating_point():
        raise LongAtlasError(f"tokens are {tokens.dtype} {list(tokens.shape)}; give integers [B, T]")
    check_choice("impl", impl, IMPLS)
    if tokens.shape[1] <= budget:
        return tokens
    select = reference.select if impl == "reference" else fast.select
    return select(tokens, query_len, chunk_len, budget, ngram, k1, b)


def check_sizes(query_len: int, chunk_len: int, budget: int, ngram: int) -> None:
    """Raise LongAtlasError unless a query and a passage fit the budget and an n-gram fits both."""
    check_positive(query_len=query_len, chunk_len=chunk_len, ngram=ngram)
    if budget < query_len + chunk_len:
        raise LongAtlasError(
            f"budget is {budget}; it must hold the query and a passage, {query_len} + {chunk_len} tokens"
        )
    if ngram > min(query_len, chunk_len):
        raise LongAtlasError(f"ngram is {ngram}; it must be at most query_len {query_len} and chunk_len {chunk_len}")
