"""Passkey retrieval (Landmark Attention, arXiv:2305.16300, section 4.2): text, passkey and question in one call."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from longatlas.losses import NO_LABEL
from longatlas.tasks import scores
from longatlas.tasks.labelled import batches, host, unseen
from longatlas.tasks.session import Recipe, Session
from longatlas.tasks.sweep import Row

VOCAB = 64
SYMBOLS = 16  # tokens 0 ... 15 are what a passkey is made of; filler is 18 ... 63
KEY, QUERY = 16, 17
DIGITS = 2
DEPTHS = 10


def run(session: Session) -> list[Row]:
    """Train at one length, then ask at ten depths of each length; a trial counts when all digits are right."""
    return session.sweep(recipe(session), lambda learner, seed: depth_map(session, seed, partial(_found, learner)))


def recipe(session: Session) -> Recipe:
    """The host of this task and of segment_passkey: the passkey anywhere, all in one call."""
    settings = session.settings
    draw_batch = partial(draw, settings["batch"], settings["length"], None)
    return Recipe(
        host(settings, VOCAB, settings["length"]),
        lambda seed: batches([draw_batch], seed, session.device),
        "passkey",
    )


def depth_map(session: Session, seed: int, found: Callable[[Tensor, Tensor], Tensor]) -> list[Row]:
    """Shares of trials for each length, together and by depth.

    found  found(tokens [n, T], labels [n, T]) -> bool [n]: whether a trial's digits are all right
    """
    trials, rows = int(session.settings["trials"]), []
    for length in session.settings["test_lengths"]:
        counts = []
        for depth in range(DEPTHS):
            tokens, labels = draw(trials, length, depth / (DEPTHS - 1), unseen(seed, DEPTHS * length + depth))
            counts.append(int(found(tokens.to(session.device), labels.to(session.device)).sum()))
        rows.append(scores.share("accuracy", length, sum(counts), DEPTHS * trials))
        rows += [scores.share(f"accuracy_depth_{i}", length, count, trials) for i, count in enumerate(counts)]
        rows.append(scores.chance(length, SYMBOLS**DIGITS))
    return rows


def _found(learner: Any, tokens: Tensor, labels: Tensor) -> Tensor:
    return scores.right(learner, tokens, labels).view(-1, DIGITS).all(1)


def draw(batch: int, length: int, depth: float | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens and labels [batch, length]; they end with the question, and each digit is the label of what is before it.

    depth  where the passkey stands, 0 = start, 1 = right before the question; None = anywhere
    """
    digits = torch.randint(SYMBOLS, (batch, DIGITS), generator=generator)
    tokens = torch.randint(SYMBOLS + 2, VOCAB, (batch, length), generator=generator)
    room = length - DIGITS - (1 + DIGITS)
    if depth is None:
        starts = torch.randint(room + 1, (batch,), generator=generator)
    else:
        starts = torch.full((batch,), round(depth * room))
    marked = torch.cat([torch.full((batch, 1), KEY), digits], 1)
    tokens.scatter_(1, starts[:, None] + torch.arange(1 + DIGITS), marked)
    tokens[:, -DIGITS] = QUERY
    tokens[:, 1 - DIGITS :] = digits[:, :-1]
    labels = torch.full_like(tokens, NO_LABEL)
    labels[:, -DIGITS:] = digits
    return tokens, labels
