"""Overwrite recall: the same keys are bound again, and the last binding counts.

A rule that adds (linear attention) keeps both values in its state; one that corrects what the key gives at present
(the delta rule, arXiv:2102.11174, section 4.2) replaces the first by the second.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from longatlas.errors import UnsupportedError
from longatlas.losses import NO_LABEL
from longatlas.tasks import scores
from longatlas.tasks.labelled import Settings, batches, host, unseen
from longatlas.tasks.mqar import ask, distinct
from longatlas.tasks.session import Recipe, Session
from longatlas.tasks.sweep import Row

FILLER = 0


def run(session: Session) -> list[Row]:
    """The share of queries answered with the last value, and of those answered with an overwritten one."""
    if session.combination.fills("context"):
        raise UnsupportedError("recall is scored at every query; a context method answers the last tokens only")
    settings = session.settings
    recipe = Recipe(
        host(settings, settings["vocab"], settings["length"]),
        lambda seed: batches([partial(_pair, settings, settings["batch"])], seed, session.device),
        "overwrite_recall",
    )
    return session.sweep(recipe, partial(_score, session))


def _pair(settings: Settings, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    tokens, labels, _ = draw(settings, batch, generator)
    return tokens, labels


def _score(session: Session, learner: object, seed: int) -> list[Row]:
    settings, length = session.settings, session.settings["length"]
    tokens, labels, stale = (x.to(session.device) for x in draw(settings, int(settings["trials"]), unseen(seed)))
    asked = labels != NO_LABEL
    given = scores.answers(learner, tokens, labels)
    outdated = (given[:, None] == stale[asked]).any(1) & (given != labels[asked])
    return [
        scores.share("accuracy", length, int((given == labels[asked]).sum()), len(given)),
        scores.share("overwritten_answers", length, int(outdated.sum()), len(given)),
        scores.chance(length, settings["vocab"] - settings["vocab"] // 2),
    ]


def draw(settings: Settings, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens and labels [batch, length], and the overwritten values of what is asked [batch, length, rounds - 1].

    In each round every key is bound to a value of its own, in another order; then each key is asked once. Keys are
    tokens 1 ... V/2-1, values V/2 ... V-1, all else is 0.
    """
    vocab, length, pairs, rounds = (settings[name] for name in ("vocab", "length", "pairs", "rounds"))
    half = vocab // 2
    keys = distinct(half - 1, pairs, batch, generator) + 1
    values = torch.stack([half + distinct(half, rounds, batch, generator) for _ in range(pairs)], 1)  # [B, n, rounds]
    tokens = torch.full((batch, length), FILLER)
    for i in range(rounds):
        order = distinct(pairs, pairs, batch, generator)
        bound = torch.stack([keys.gather(1, order), values[:, :, i].gather(1, order)], 2)
        tokens[:, 2 * pairs * i : 2 * pairs * (i + 1)] = bound.flatten(1)
    tokens, labels = ask(tokens, 2 * pairs * rounds, keys, values[:, :, -1], generator)
    whose = (tokens[:, :, None] == keys[:, None]).int().argmax(2)  # [B, T]: which key stands there
    earlier = values[:, :, :-1].gather(1, whose[:, :, None].expand(-1, -1, rounds - 1))
    return tokens, labels, earlier
