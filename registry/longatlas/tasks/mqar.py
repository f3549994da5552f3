"""Multi-query associative recall (Zoology, arXiv:2312.04927, section 3): several keys are asked for their values."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from longatlas.errors import UnsupportedError
from longatlas.losses import NO_LABEL
from longatlas.tasks import scores
from longatlas.tasks.labelled import batches, host, unseen
from longatlas.tasks.session import Recipe, Session
from longatlas.tasks.sweep import Row

EXPONENT = 0.01  # of the power law that the gaps between a pair and its query follow, as in the paper


def run(session: Session) -> list[Row]:
    """Train on all numbers of pairs in turn; the share of queries answered right, together, by length and by pairs."""
    if session.combination.fills("context"):
        raise UnsupportedError("recall is scored at every query; a context method answers the last tokens only")
    settings, sizes = session.settings, cases(session)
    draws = [partial(_draw, session, length, pairs, settings["batch"]) for length, pairs in sizes]
    recipe = Recipe(
        host(settings, settings["vocab"], max(settings["lengths"])),
        lambda seed: batches(draws, seed, session.device),
        "mqar",
    )
    return session.sweep(recipe, partial(_score, session))


def cases(session: Session) -> list[tuple[int, int]]:
    """The lengths with their numbers of pairs."""
    return list(zip(session.settings["lengths"], session.settings["pairs"], strict=True))


def _draw(session: Session, length: int, pairs: int, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return draw(session.settings["vocab"], length, pairs, batch, generator)


def _score(session: Session, learner: object, seed: int) -> list[Row]:
    """The share of all queries first, by which rates are chosen, then by length and by number of pairs.

    accuracy_overall  of all lengths together, told at the longest; only where there are several
    accuracy          of the numbers of pairs of one length
    """
    found, trials, vocab = [], int(session.settings["trials"]), session.settings["vocab"]
    for length, pairs in cases(session):
        tokens, labels = draw(vocab, length, pairs, trials, unseen(seed, length))
        right = scores.right(learner, tokens.to(session.device), labels.to(session.device))
        found.append((length, pairs, int(right.sum()), len(right)))
    lengths = list(dict.fromkeys(session.settings["lengths"]))
    longest = max(lengths)
    rows = [_pooled("accuracy", length, [row for row in found if row[0] == length]) for length in lengths]
    if len(lengths) > 1:
        rows.insert(0, _pooled("accuracy_overall", longest, found))
    rows += [_pooled(f"accuracy_pairs_{row[1]}", row[0], [row]) for row in found]
    return [*rows, scores.chance(longest, vocab - vocab // 2)]


def _pooled(metric: str, length: int, found: list[tuple[int, int, int, int]]) -> Row:
    """One row of several cases: length, pairs, right answers and queries of each."""
    return scores.share(metric, length, sum(row[2] for row in found), sum(row[3] for row in found))


def draw(vocab: int, length: int, pairs: int, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens and labels [batch, length]: pairs first, then each key once more among noise.

    Keys are tokens 1 ... V/2-1, values V/2 ... V-1; the label at a repeated key is its value, elsewhere -100.
    """
    half = vocab // 2
    keys = distinct(half - 1, pairs, batch, generator) + 1
    values = half + torch.randint(half, (batch, pairs), generator=generator)
    tokens = torch.randint(vocab, (batch, length), generator=generator)
    tokens[:, 0 : 2 * pairs : 2], tokens[:, 1 : 2 * pairs : 2] = keys, values
    return ask(tokens, 2 * pairs, keys, values, generator)


def distinct(choices: int, n: int, batch: int, generator: torch.Generator) -> Tensor:
    """n different numbers below `choices` in each row, [batch, n]."""
    return torch.rand(batch, choices, generator=generator).argsort(1)[:, :n]


def ask(tokens: Tensor, start: int, keys: Tensor, values: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Put each key [B, n] once into tokens [B, T] from `start` on, labelled with its value; most come soon."""
    slots = (tokens.shape[1] - start) // 2
    weights = torch.arange(1, slots + 1, dtype=torch.float64) ** (EXPONENT - 1)
    gaps = torch.multinomial(weights.expand(len(tokens), -1), keys.shape[1], generator=generator)
    labels = torch.full_like(tokens, NO_LABEL)
    return tokens.scatter(1, start + 2 * gaps, keys), labels.scatter(1, start + 2 * gaps, values)
