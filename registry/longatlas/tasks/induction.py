"""Induction heads (Mamba, arXiv:2312.00752, section 4.1.2): what followed a mark is asked when it comes again.

Trained at one length, tested at longer ones.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from longatlas.losses import NO_LABEL
from longatlas.tasks import scores
from longatlas.tasks.labelled import batches, host, unseen
from longatlas.tasks.session import Recipe, Session
from longatlas.tasks.sweep import Row


def run(session: Session) -> list[Row]:
    """The share of right answers at each length, the training length first."""
    settings = session.settings
    draw_batch = partial(draw, settings["vocab"], settings["length"], settings["batch"])
    recipe = Recipe(
        host(settings, settings["vocab"], settings["length"]),
        lambda seed: batches([draw_batch], seed, session.device),
        "induction",
    )
    return session.sweep(recipe, partial(_score, session))


def _score(session: Session, learner: object, seed: int) -> list[Row]:
    settings, rows = session.settings, []
    for length in settings["test_lengths"]:
        tokens, labels = draw(settings["vocab"], length, int(settings["trials"]), unseen(seed, length))
        found = scores.right(learner, tokens.to(session.device), labels.to(session.device))
        rows += [
            scores.share("accuracy", length, int(found.sum()), len(found)),
            scores.chance(length, settings["vocab"] - 1),
        ]
    return rows


def draw(vocab: int, length: int, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens and labels [batch, length]: the mark V-1 stands once anywhere and once at the end, where its
    successor is the label. The other tokens are 0 ... V-2.
    """
    tokens = torch.randint(vocab - 1, (batch, length), generator=generator)
    marks = torch.randint(length - 2, (batch, 1), generator=generator)
    labels = torch.full_like(tokens, NO_LABEL)
    labels[:, -1:] = tokens.gather(1, marks + 1)
    tokens.scatter_(1, marks, vocab - 1)
    tokens[:, -1] = vocab - 1
    return tokens, labels
