"""The six MAD skills: draws by brute force, and the autoencoder of the compression task."""

from __future__ import annotations

from typing import Any

import torch

from longatlas import Decoder, DecoderConfig
from longatlas.tasks import mad_draws
from longatlas.tasks.mad import Autoencoder


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(drawn: Any) -> Any:
    tokens, labels = drawn
    assert tokens.shape == labels.shape
    return zip(tokens.tolist(), labels.tolist(), strict=True)


def test_in_context_recall() -> None:
    for row, wanted in rows(mad_draws.in_context_recall({"vocab": 16, "length": 64}, 32, generator())):
        known: dict[int, int] = {}
        for key, value, label, none in zip(row[::2], row[1::2], wanted[::2], wanted[1::2], strict=True):
            assert key < 8 <= value < 16
            assert label == known.get(key, -100)
            assert none == -100
            assert known.setdefault(key, value) == value


def test_noisy_recall() -> None:
    settings = {"vocab": 16, "noise_vocab": 8, "noise": 0.5, "length": 64}
    noisy = 0
    for row, wanted in rows(mad_draws.noisy_recall(settings, 64, generator())):
        known: dict[int, int] = {}
        for key, value, label in zip(row[::2], row[1::2], wanted[::2], strict=True):
            if key >= 16:
                assert 16 <= value < 24
                assert label == -100
                noisy += 1
                continue
            assert label == known.get(key, -100)
            assert known.setdefault(key, value) == value
    assert 0.4 < noisy / (64 * 31) < 0.6


def test_fuzzy_recall() -> None:
    """Split each sequence again at the borders between the two halves of the vocabulary."""
    asked = 0
    for row, wanted in rows(mad_draws.fuzzy_recall({"vocab": 9, "motif": 3, "length": 64}, 64, generator())):
        start = next(place for place, token in enumerate(row) if token != 8)
        assert set(row[:start]) <= {8}
        known: dict[tuple[int, ...], list[int]] = {}
        place = start
        while place < len(row):
            keys = _run(row, place, lambda token: token < 4)
            values = _run(row, place + len(keys), lambda token: 4 <= token < 8)
            assert 1 <= len(keys) <= 3
            assert 1 <= len(values) <= 3
            labels = wanted[place + len(keys) - 1 : place + len(keys) + len(values) - 1]
            assert labels == (known[tuple(keys)] if tuple(keys) in known else [-100] * len(values))
            asked += tuple(keys) in known
            assert known.setdefault(tuple(keys), values) == values
            place += len(keys) + len(values)
    assert asked > 100


def _run(row: list[int], start: int, belongs: Any) -> list[int]:
    end = start
    while end < len(row) and belongs(row[end]):
        end += 1
    return row[start:end]


def test_selective_copying() -> None:
    places = set()
    for row, wanted in rows(mad_draws.selective_copying({"vocab": 8, "copied": 4, "length": 20}, 200, generator())):
        data = [token for token in row if token < 6]
        assert len(data) == 4
        assert row[15] == 7
        assert row[16:] == [6] * 4
        assert wanted == [-100] * 16 + data
        places |= {place for place, token in enumerate(row) if token < 6}
    assert places == set(range(15))


def test_compression_and_memorisation() -> None:
    for row, wanted in rows(mad_draws.compression({"vocab": 8, "length": 6}, 50, generator())):
        assert row == wanted
        assert row[-1] == 7
        assert max(row[:-1]) < 7
    facts: dict[int, int] = {}
    for seed in (0, 1):
        for row, wanted in rows(mad_draws.memorisation({"vocab": 32, "length": 8}, 50, generator(seed))):
            assert row[1::2] == [31] * 4
            assert wanted[::2] == [-100] * 4
            for key, value in zip(row[::2], wanted[1::2], strict=True):
                assert facts.setdefault(key, value) == value, "one mapping for all draws"
    assert sorted(facts) == list(range(15))
    assert sorted(facts.values()) == list(range(15, 30))


def test_the_autoencoder_reads_the_last_state_alone() -> None:
    torch.manual_seed(0)
    decoder = Decoder(DecoderConfig(vocab_size=8, d_model=16, n_layers=1, n_heads=2), "sliding_window:window=2")
    model = Autoencoder(decoder, length=6)
    tokens = torch.randint(8, (2, 6))
    chosen = torch.ones(2, 6, dtype=torch.bool)
    before = model.logits_at(tokens, chosen)
    assert before.shape == (12, 8)
    changed = tokens.clone()
    changed[:, :3] = (changed[:, :3] + 1) % 8  # out of the reach of the last token
    assert torch.equal(model.logits_at(changed, chosen), before)
    changed[:, 5] = (changed[:, 5] + 1) % 8
    assert not torch.allclose(model.logits_at(changed, chosen), before)
