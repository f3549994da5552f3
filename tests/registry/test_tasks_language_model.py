"""Byte-level language model: buckets, scores of known models, and held-out text."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from longatlas import Decoder, DecoderConfig, LongAtlasError
from longatlas.measures import LESS, direction
from longatlas.slots import Context, Prompt
from longatlas.tasks import language_model


def uniform(method: str) -> Decoder:
    """A decoder that holds every byte for equally likely."""
    decoder = Decoder(DecoderConfig(d_model=16, n_layers=1, n_heads=2, train_length=16), method)
    torch.nn.init.zeros_(decoder.core.head.weight)  # type: ignore[union-attr, arg-type]
    return decoder


@pytest.mark.parametrize("method", ["vanilla", "passage_selection"])
def test_a_uniform_model_needs_eight_bits(method: str) -> None:
    tokens = torch.randint(256, (3, 8 * 16 + 1), generator=torch.Generator().manual_seed(0))
    rows = language_model.bits_by_position(uniform(method), tokens, 16, 8)
    names = ("bits_per_byte", "bits_per_byte_at_end")[method == "passage_selection" :]
    assert [(row["metric"], row["T"]) for row in rows] == [(name, T) for name in names for T in (16, 32, 64, 128)]
    for row in rows:
        assert row["value"] == pytest.approx(8.0, abs=1e-6)
        assert row["n"] == 3
        assert row["high"] - row["low"] < 1e-5


def test_buckets_are_means_over_their_own_positions() -> None:
    assert list(language_model.buckets(16, 8)) == [(0, 16), (16, 32), (32, 64), (64, 128)]

    class WorseWithPosition:
        """Gives token 0, which alone is ever asked for, a loss of 1 + position nats."""

        context = None

        def __call__(self, tokens: torch.Tensor) -> Any:
            wanted = 1 + torch.arange(tokens.shape[1], dtype=torch.float64)
            rest = torch.log(-torch.expm1(-wanted)) - math.log(255)  # the other tokens share what is left
            logits = rest[:, None].repeat(1, 256)
            logits[:, 0] = -wanted
            return logits[None].expand(tokens.shape[0], -1, -1), None

    model: Any = WorseWithPosition()
    rows = language_model.bits_by_position(model, torch.zeros(2, 129).long(), 16, 8)
    means = [(start + 1 + end) / 2 / math.log(2) for start, end in language_model.buckets(16, 8)]
    ends = [(end - min(64, end // 2) + 1 + end) / 2 / math.log(2) for end in (16, 32, 64, 128)]
    assert [row["value"] for row in rows] == pytest.approx(means + ends, rel=1e-5)


def test_the_end_is_scored_alike_whether_a_method_answers_prompts_or_all() -> None:
    """A context that changes nothing gives the scores of the decoder that it is put around."""
    torch.manual_seed(0)
    decoder = Decoder(DecoderConfig(d_model=16, n_layers=1, n_heads=2, train_length=16), "vanilla").double()
    tokens = torch.randint(256, (3, 8 * 16 + 1))
    whole = language_model.bits_by_position(decoder, tokens, 16, 8)[4:]
    decoder.context = Context(lambda text: Prompt((), text))
    asked = language_model.bits_by_position(decoder, tokens, 16, 8)
    assert direction("bits_per_byte_at_end") == LESS
    for one, other in zip(whole, asked, strict=True):
        assert (one["metric"], one["T"]) == (other["metric"], other["T"])
        assert one["value"] == pytest.approx(other["value"], rel=1e-9)


def test_held_out_text_is_spread_evenly() -> None:
    text = bytes(i % 251 for i in range(1000))
    tokens = language_model.held_out(text, 4, 100)
    assert tokens.shape == (4, 100)
    assert bytes(tokens[0].tolist()) == text[:100]
    assert bytes(tokens[-1].tolist()) == text[900:]
    with pytest.raises(LongAtlasError, match="holds out 1000 bytes; 1001 are needed: give a longer text with --corpus"):
        language_model.held_out(text, 4, 1001)


def test_training_learns_something(make_session: Any) -> None:
    rows = language_model.run(make_session("language_model"))
    bits = [row for row in rows if row["metric"] == "bits_per_byte"]
    assert [row["T"] for row in bits] == [32, 64, 128, 256]
    assert all(3 < row["value"] < 8 for row in bits), "better than chance"
    assert len({row["value"] for row in bits}) == 4
    assert {row["T"] for row in rows if row["metric"] == "bits_per_byte_at_end"} == {32, 64, 128, 256}
