"""Passage selection: BM25 against a worked example and dictionaries, what is kept, and in which order."""

import math

import pytest
import torch

from longatlas import Decoder, DecoderConfig, LongAtlasError
from longatlas_plugins.context_processing.passage_selection import bm25_scores, select_passages
from longatlas_plugins.context_processing.passage_selection.reference import bm25

CONFIG = DecoderConfig(vocab_size=256, d_model=32, n_layers=2, n_heads=4)
SMALL = {"query_len": 6, "chunk_len": 6, "budget": 30}


def _tokens(text: str) -> torch.Tensor:
    return torch.tensor([list(text.encode())])


def test_bm25_worked_by_hand() -> None:
    """Three passages of two terms; the query's term 7 stands twice in the first, once in the second."""
    chunks = torch.tensor([[[7, 7], [7, 1], [2, 3]]])
    found = bm25_scores(chunks, torch.empty(1, 0, dtype=torch.long), torch.tensor([[7, 7, 9]]), ngram=1)
    idf = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    expected = [idf * 2 * 2.2 / (2 + 1.2), idf * 1 * 2.2 / (1 + 1.2), 0.0]
    assert found[0].tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("ngram", [1, 2, 4])
@pytest.mark.parametrize("rest", [0, 1, 7])
def test_scores_equal_the_dictionaries(ngram: int, rest: int) -> None:
    generator = torch.Generator().manual_seed(ngram + 10 * rest)
    row = torch.randint(3, (2, 8 * 11 + rest + 20), generator=generator)
    chunks, query = row[:, :88].unflatten(1, (8, 11)), row[:, -20:]
    found = bm25_scores(chunks, row[:, 88 : 88 + rest], query, ngram=ngram, k1=0.9, b=0.6)
    for i in range(2):
        passages = [*chunks[i].tolist(), *([row[i, 88 : 88 + rest].tolist()] if rest else [])]
        expected = bm25(passages, query[i].tolist(), ngram, 0.9, 0.6)[:8]
        assert found[i].tolist() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("length", [31, 37, 63, 100, 500])
@pytest.mark.parametrize("symbols", [2, 5, 200])
def test_torch_keeps_what_the_reference_keeps(length: int, symbols: int) -> None:
    tokens = torch.randint(symbols, (3, length), generator=torch.Generator().manual_seed(length))
    for ngram in (1, 3):
        kept = [select_passages(tokens, ngram=ngram, impl=impl, **SMALL) for impl in ("torch", "reference")]
        assert torch.equal(*kept)
        assert kept[0].shape == (3, 30)


def test_the_matching_passages_are_kept_in_their_order() -> None:
    filler = "." * 64
    needle, other = "the code of anna is 4711. ".ljust(64, "-"), "what anna likes: codes".ljust(64, "+")
    query = " and what is, please, the code of anna? Answer: it is ".rjust(64, "_")
    text = filler * 5 + needle + filler * 20 + other + filler * 30 + query
    kept = bytes(select_passages(_tokens(text), budget=4 * 64)[0].tolist()).decode()
    assert kept == needle + other + filler + query


def test_without_any_match_the_latest_text_is_kept() -> None:
    tokens = torch.arange(1000)[None]
    assert torch.equal(select_passages(tokens, **SMALL), tokens[:, -30:])


def test_short_input_passes_whole() -> None:
    for length in (0, 1, 29, 30):
        tokens = torch.randint(9, (2, length))
        assert torch.equal(select_passages(tokens, **SMALL), tokens)


def test_each_sequence_selects_for_itself() -> None:
    tokens = torch.randint(4, (4, 200), generator=torch.Generator().manual_seed(3))
    together = select_passages(tokens, ngram=2, **SMALL)
    alone = torch.cat([select_passages(row[None], ngram=2, **SMALL) for row in tokens])
    assert torch.equal(together, alone)
    assert not torch.equal(together, tokens[:, -30:])


def test_repetition_counts_less_and_less() -> None:
    chunks = torch.tensor([[[7] * 8, [7] * 4 + [1] * 4, [7] + [1] * 7, [1] * 8]])
    a, b, c, none = bm25_scores(chunks, chunks[:, 0, :0], torch.tensor([[7]]), ngram=1)[0].tolist()
    assert a > b > c > none == 0.0
    assert a - b < b - c
    flat = bm25_scores(chunks, chunks[:, 0, :0], torch.tensor([[7]]), ngram=1, k1=0.0)[0].tolist()
    assert flat[0] == flat[1] == flat[2] > 0


def test_the_decoder_reads_exactly_the_kept_tokens() -> None:
    torch.manual_seed(0)
    decoder, plain = Decoder(CONFIG, "passage_selection"), Decoder(CONFIG)
    plain.load_state_dict(decoder.state_dict())
    tokens = torch.randint(256, (2, 1500))
    with torch.no_grad():
        answer, state = decoder(tokens)
        expected, _ = plain(select_passages(tokens))
        assert state.position == 512
        torch.testing.assert_close(answer, expected[:, -1:])
        assert decoder(tokens[:, :1], state)[0].shape == (2, 1, 256)


def test_bad_input() -> None:
    tokens = torch.zeros(1, 600, dtype=torch.long)
    with pytest.raises(LongAtlasError, match="budget is 100"):
        select_passages(tokens, budget=100)
    with pytest.raises(LongAtlasError, match="ngram is 65"):
        select_passages(tokens, ngram=65)
    with pytest.raises(LongAtlasError, match="auto, reference, torch"):
        select_passages(tokens, impl="triton")
    with pytest.raises(LongAtlasError, match="integers"):
        select_passages(tokens.float())
    with pytest.raises(LongAtlasError, match="budget"):
        Decoder(CONFIG, "passage_selection:budget=100")
