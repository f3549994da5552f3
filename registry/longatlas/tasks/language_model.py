"""Byte-level language model: bits per byte by position bucket, at 1x to many times the training length.

Of every method the last tokens of each bucket are scored apart, for a context method answers no more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from longatlas.decoder.config import DecoderConfig
from longatlas.decoder.decoder import Decoder
from longatlas.errors import LongAtlasError
from longatlas.tasks.session import Batches, Recipe, Session, text_digest
from longatlas.tasks.sweep import Row

SCORED = 64  # tokens scored apart at the end of each bucket, at most


def run(session: Session) -> list[Row]:
    """Train on the corpus, then score held-out text by position."""
    settings, text = session.settings, session.text()
    length, reach = int(settings["length"]), int(settings["reach"])
    tokens = held_out(text.held_out, int(settings["sequences"]), reach * length + 1).to(session.device)
    config = DecoderConfig(
        d_model=settings["d_model"],
        n_layers=settings["layers"],
        n_heads=settings["heads"],
        ffn_hidden=settings.get("ffn"),
        short_conv=settings["conv"],
        train_length=length,
    )
    train = torch.frombuffer(bytearray(text.train), dtype=torch.uint8)
    recipe = Recipe(config, partial(_batches, session, train), f"bytes {text_digest(text.train)}", text=train)
    return session.sweep(
        recipe, lambda decoder, seed: bits_by_position(decoder, tokens, length, reach), lower_is_better=True
    )


def _batches(session: Session, text: Tensor, seed: int) -> Batches:
    generator = torch.Generator().manual_seed(seed)
    length, batch = int(session.settings["length"]), int(session.settings["batch"])
    while True:
        starts = torch.randint(len(text) - length - 1, (batch,), generator=generator)
        rows = torch.stack([text[s : s + length + 1] for s in starts.tolist()])
        yield rows.long().to(session.device), None


def held_out(text: bytes, sequences: int, length: int) -> Tensor:
    """Tokens [sequences, length], evenly spaced over the held-out text (overlapping where it is short)."""
    if len(text) < length:
        raise LongAtlasError(
            f"the corpus holds out {len(text)} bytes; {length} are needed: give a longer text with --corpus"
        )
    data = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    starts = torch.linspace(0, len(text) - length, sequences).long().tolist()
    return torch.stack([data[s : s + length] for s in starts])


def buckets(length: int, reach: int) -> Iterator[tuple[int, int]]:
    """Position ranges (0, L], (L, 2L], (2L, 4L] ... up to reach times L."""
    start, end = 0, length
    while end <= reach * length:
        yield start, end
        start, end = end, 2 * end


@torch.no_grad()
def bits_by_position(decoder: Decoder, tokens: Tensor, length: int, reach: int) -> list[Row]:
    """Mean bits per byte in each bucket, with the 95% interval over sequences; tokens [n, reach * L + 1].

    bits_per_byte         of the whole bucket; not of a method that answers prompts only
    bits_per_byte_at_end  of the last min(64, end // 2) tokens of each bucket, given all before them: of every method,
                          so that all compare
    """
    ranges = list(buckets(length, reach))
    if decoder.context is not None:
        return [_row("bits_per_byte_at_end", end, losses) for end, losses in _score_prompts(decoder, tokens, ranges)]
    losses = torch.cat([_losses(decoder(row[None, :-1])[0], row[None, 1:]) for row in tokens])  # [n, reach * L]
    whole = [_row("bits_per_byte", end, losses[:, start:end].mean(1)) for start, end in ranges]
    return whole + [_row("bits_per_byte_at_end", end, losses[:, end - _scored(end) : end].mean(1)) for _, end in ranges]


def _row(metric: str, end: int, losses: Tensor) -> Row:
    """A row of mean losses in nats [n], one of each sequence."""
    bits = losses / math.log(2)
    half = 1.96 * float(bits.std()) / math.sqrt(len(bits)) if len(bits) > 1 else 0.0
    mean = float(bits.mean())
    return {
        "metric": metric,
        "unit": "bits",
        "T": end,
        "value": mean,
        "low": mean - half,
        "high": mean + half,
        "n": len(bits),
    }


def _scored(end: int) -> int:
    """Tokens scored at the end of the bucket that ends there."""
    return min(SCORED, end // 2)


def _score_prompts(decoder: Decoder, tokens: Tensor, ranges: list[tuple[int, int]]) -> Iterator[tuple[int, Tensor]]:
    """The end of each bucket with the mean loss [n] of its last tokens, for a method that answers prompts."""
    for _, end in ranges:
        start = end - _scored(end)
        yield end, _losses(_logits_between(decoder, tokens, start, end), tokens[:, start + 1 : end + 1]).mean(1)


def _logits_between(decoder: Decoder, tokens: Tensor, start: int, end: int) -> Tensor:
    """Logits [n, end - start, V] of tokens from `start` to `end`, given all before them, of a method with a context.

    One that scores its tail is asked once, where its tail is long enough; else these tokens are read after a prompt.
    """
    logits: Tensor
    if decoder.context is not None and decoder.context.scores == "tail":
        logits, _ = decoder(tokens[:, :end])
        if logits.shape[1] >= end - start:
            return logits[:, start - end :]
    _, state = decoder(tokens[:, :start])
    logits, _ = decoder(tokens[:, start:end], state)
    return logits


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats of each token, [n, T]."""
    return functional.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
