"""Passkey retrieval (Landmark Attention, arXiv:2305.16300, section 4.2), split over calls.

The text with the passkey is one call, the question another: what is answered must have come through the state.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from longatlas.decoder.config import DecoderConfig
from longatlas.tasks.session import Batches, Session

VOCAB = 64
SYMBOLS = 16  # tokens 0 ... 15 are what a passkey is made of; filler is 18 ... 63
KEY, QUERY = 16, 17
DIGITS = 2
DEPTHS = 10


def run(session: Session) -> list[dict[str, Any]]:
    """Train at one length, then ask at ten depths of each length; a trial counts when all digits are right."""
    settings = session.settings
    config = DecoderConfig(
        vocab_size=VOCAB,
        d_model=settings["d_model"],
        n_layers=2,
        n_heads=4,
        short_conv=3,
        train_length=settings["length"],
    )
    decoder = session.decoder(config, lambda: _batches(session), lr=settings["lr"])
    rows = []
    for length in settings["lengths"]:
        shares = [_accuracy(session, decoder, length, depth) for depth in range(DEPTHS)]
        rows.append(_row("accuracy", length, sum(shares) / DEPTHS, DEPTHS * int(settings["trials"])))
        for depth, share in enumerate(shares):
            rows.append(_row(f"accuracy_depth_{depth}", length, share, int(settings["trials"])))
    return rows


def _row(metric: str, length: int, share: float, n: int) -> dict[str, Any]:
    half = 1.96 * math.sqrt(max(share * (1 - share), 1 / (4 * n)) / n)
    return {
        "metric": metric,
        "unit": "share",
        "T": length,
        "value": share,
        "low": max(0.0, share - half),
        "high": min(1.0, share + half),
        "n": n,
    }


def draw(batch: int, length: int, depth: float | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens [batch, length] that end with the question, and the passkeys [batch, DIGITS].

    depth  where the passkey stands, 0 = start, 1 = right before the question; None = anywhere
    """
    digits = torch.randint(SYMBOLS, (batch, DIGITS), generator=generator)
    tokens = torch.randint(SYMBOLS + 2, VOCAB, (batch, length), generator=generator)
    tail, needle = 1 + DIGITS, 1 + DIGITS
    room = length - tail - needle
    if depth is None:
        starts = torch.randint(room + 1, (batch,), generator=generator)
    else:
        starts = torch.full((batch,), round(depth * room))
    marked = torch.cat([torch.full((batch, 1), KEY), digits], 1)
    tokens.scatter_(1, starts[:, None] + torch.arange(needle), marked)
    tokens[:, -tail] = QUERY
    tokens[:, -DIGITS:] = digits
    return tokens, digits


def _batches(session: Session) -> Batches:
    generator = torch.Generator().manual_seed(session.seed)
    length, batch = session.settings["length"], session.settings["batch"]
    while True:
        tokens, digits = draw(batch, length, None, generator)
        labels = torch.full_like(tokens, -100)
        labels[:, -DIGITS - 1 : -1] = digits
        yield tokens.to(session.device), labels.to(session.device)


@torch.no_grad()
def _accuracy(session: Session, decoder: Any, length: int, depth: int) -> float:
    generator = torch.Generator().manual_seed(session.seed + 1_000_003 + DEPTHS * length + depth)
    tokens, digits = draw(int(session.settings["trials"]), length, depth / (DEPTHS - 1), generator)
    tokens, digits = tokens.to(session.device), digits.to(session.device)
    _, state = decoder(tokens[:, : -1 - DIGITS])
    logits, _ = decoder(tokens[:, -1 - DIGITS : -1], state)
    return float((logits.argmax(-1) == digits).all(1).float().mean())
