"""Passage selection (CogLTX, NeurIPS 2020, judged by BM25): only passages that match the query are read."""

from typing import Any

from longatlas import Context, Cost, Method, Option, Prompt
from longatlas.lazy import lazy_exports


def selected_passages(
    config: Any,
    *,
    query_len: int,
    chunk_len: int,
    budget: int,
    ngram: int,
    k1: float,
    b: float,
    impl: str = "auto",
) -> Context:
    """Give the decoder the query with the best passages before it, in their order."""
    from longatlas_plugins.context_processing.passage_selection.operation import check_sizes, select_passages

    check_sizes(query_len, chunk_len, budget, ngram)

    def split(tokens: Any) -> Prompt:
        kept = select_passages(
            tokens,
            query_len=query_len,
            chunk_len=chunk_len,
            budget=budget,
            ngram=ngram,
            k1=k1,
            b=b,
            impl=impl,
        )
        return Prompt((), kept)

    return Context(split)


METHOD = Method(
    name="passage_selection",
    title="Passage selection (BM25)",
    family="context_processing/selection",
    paper="https://proceedings.neurips.cc/paper/2020/file/96671501524948bc3937b4b30d0e57b9-Paper.pdf",
    summary="Scores the passages of a long input against its last tokens and gives the decoder the best.",
    fills={"context": selected_passages},
    options=(
        Option("query_len", 64, "last tokens, which are the query", unit="tokens", min=1),
        Option("chunk_len", 64, "tokens of a passage", unit="tokens", min=1),
        Option("budget", 512, "tokens that the decoder reads, query included", unit="tokens", min=2),
        Option("ngram", 4, "neighbouring tokens that make a term; 4 suits bytes, 1 whole words", min=1),
        Option("k1", 1.2, "BM25: how soon repetition of a term stops to count", min=0.0),
        Option("b", 0.75, "BM25: how much long passages are held back", min=0.0, max=1.0),
    ),
    cost=Cost(time="T", state="1"),
    state_size=lambda call, *, budget: call.keys_values(min(call.end, budget)),
    impls=("torch", "reference"),
    training="retrofit",
    deviations="BM25 stands for CogLTX's trained judge, and passages are chosen once, without its rehearsal. "
    "The inverse document frequency is ln(1 + ...), which is never negative, and a term counts once in the "
    "query. The unfinished passage right before the query is always kept, the last passage chosen loses its "
    "beginning to fit the budget, and among equals the later one wins. The decoder sees the kept tokens as "
    "one text, at neighbouring positions.",
    source="Checked against BM25 with Python dictionaries, after Robertson & Zaragoza (2009), and against a "
    "worked example.",
    equations=(
        r"\mathrm{score}(D) = \sum_{t \in Q} \mathrm{idf}(t)\, \frac{f(t, D)\,(k_1 + 1)}"
        r"{f(t, D) + k_1 \left(1 - b + b\, |D| / \overline{|D|}\right)}",
        r"\mathrm{idf}(t) = \ln\left(1 + \frac{N - n_t + 0.5}{n_t + 0.5}\right)",
    ),
)

__getattr__ = lazy_exports(__name__, {"select_passages": ".operation", "bm25_scores": ".fast"})
