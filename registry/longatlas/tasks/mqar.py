"""Multi-query associative recall (Zoology, arXiv:2312.04927, section 3): several keys are asked for their values."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from longatlas.decoder.config import DecoderConfig
from longatlas.errors import UnsupportedError
from longatlas.tasks.session import Batches, Session

EXPONENT = 0.01  # of the power law that the gaps between a pair and its query follow, as in the paper
TESTED = 256  # sequences in the evaluation


def run(session: Session) -> list[dict[str, Any]]:
    """Train two mixers without a feed-forward part, then report the share of queries answered right."""
    settings = session.settings
    if session.combination.fills("context"):
        raise UnsupportedError("recall is scored at every query; a context method answers the last token only")
    config = DecoderConfig(
        vocab_size=settings["vocab"],
        d_model=settings["d_model"],
        n_layers=2,
        n_heads=2,
        ffn_hidden=0,
        short_conv=settings["conv"],
        train_length=settings["length"],
    )
    decoder = session.decoder(config, lambda: _batches(session), lr=settings["lr"])
    generator = torch.Generator().manual_seed(session.seed + 1_000_003)
    tokens, labels = (x.to(session.device) for x in draw(settings, TESTED, generator))
    with torch.no_grad():
        right = decoder(tokens)[0].argmax(-1) == labels
    asked = labels >= 0
    accuracy = float(right[asked].float().mean())
    n = int(asked.sum())
    half = 1.96 * math.sqrt(max(accuracy * (1 - accuracy), 1 / n) / n)
    low, high = max(0.0, accuracy - half), min(1.0, accuracy + half)
    return [
        {
            "metric": "accuracy",
            "unit": "share",
            "T": settings["length"],
            "value": accuracy,
            "low": low,
            "high": high,
            "n": n,
        }
    ]


def _batches(session: Session) -> Batches:
    generator = torch.Generator().manual_seed(session.seed)
    while True:
        tokens, labels = draw(session.settings, session.settings["batch"], generator)
        yield tokens.to(session.device), labels.to(session.device)


def draw(settings: Any, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens and labels [batch, length]: pairs first, then each key once more among noise.

    Keys are tokens 1 ... V/2-1, values V/2 ... V-1; the label at a repeated key is its value, elsewhere -100.
    """
    vocab, length, pairs = settings["vocab"], settings["length"], settings["pairs"]
    half = vocab // 2
    keys = 1 + torch.rand(batch, half - 1, generator=generator).argsort(1)[:, :pairs]
    values = half + torch.randint(half, (batch, pairs), generator=generator)
    tokens = torch.randint(vocab, (batch, length), generator=generator)
    tokens[:, 0 : 2 * pairs : 2], tokens[:, 1 : 2 * pairs : 2] = keys, values
    slots = (length - 2 * pairs) // 2
    weights = torch.arange(1, slots + 1, dtype=torch.float64) ** (EXPONENT - 1)
    gaps = torch.multinomial(weights.expand(batch, -1), pairs, generator=generator)
    places = 2 * pairs + 2 * gaps
    labels = torch.full((batch, length), -100)
    return tokens.scatter(1, places, keys), labels.scatter(1, places, values)
