"""Rows of a task: shares of right answers with their intervals, and what chance would give."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from scipy.stats import binomtest
from torch import Tensor

from longatlas.errors import UnsupportedError
from longatlas.losses import NO_LABEL
from longatlas.tasks.sweep import Row

TOKENS_AT_ONCE = 1 << 14


def share(metric: str, length: int, right: int, n: int) -> Row:
    """A row: `right` of `n` answers, with Wilson's 95% interval."""
    interval = binomtest(right, n).proportion_ci(method="wilson")
    return {
        "metric": metric,
        "unit": "share",
        "T": length,
        "value": right / n,
        "low": float(interval.low),
        "high": float(interval.high),
        "n": n,
    }


def chance(length: int, answers: float) -> Row:
    """A row: the accuracy of guessing among so many answers."""
    value = 1 / answers
    return {"metric": "chance", "unit": "share", "T": length, "value": value, "low": value, "high": value, "n": 1}


@torch.no_grad()
def answers(learner: Any, tokens: Tensor, labels: Tensor) -> Tensor:
    """What a learner answers at each label of tokens and labels [B, T]: [n], in the order of labels[labels != -100].

    A method with a `context` answers the last tokens of a prompt alone. It is asked with the text up to the last
    labelled column, and again up to the last one that it has not answered, until all are: one that answers one token
    is so asked once for each column.
    """
    batches = zip(_portions(tokens), _portions(labels), strict=True)
    ask = _ask_prompts if getattr(learner, "context", None) is not None else _ask
    return torch.cat([ask(learner, some, wanted != NO_LABEL) for some, wanted in batches])


def _portions(whole: Tensor) -> Iterator[Tensor]:
    """Rows [b, T] of [B, T], so many at once that memory does not grow with T."""
    return iter(torch.split(whole, max(1, TOKENS_AT_ONCE // whole.shape[1])))


def _ask(learner: Any, tokens: Tensor, chosen: Tensor) -> Tensor:
    answered: Tensor = learner.logits_at(tokens, chosen).argmax(-1)
    return answered


def _ask_prompts(learner: Any, tokens: Tensor, chosen: Tensor) -> Tensor:
    columns = chosen.any(0).nonzero().flatten().tolist()
    if not bool(chosen[:, columns].all()):
        raise UnsupportedError("the places of the answers differ; a context method needs them equal in all texts")
    answered: list[Tensor] = []
    while len(answered) < len(columns):
        end = columns[len(columns) - len(answered) - 1] + 1
        logits, _ = learner(tokens[:, :end])  # [B, n, V]: of the last n tokens
        within = [column - end for column in columns if end - logits.shape[1] <= column < end]
        answered = [*logits[:, within].argmax(-1).unbind(1), *answered]
    return torch.stack(answered, 1).flatten()


def right(learner: Any, tokens: Tensor, labels: Tensor) -> Tensor:
    """Whether each labelled answer is right: bool [n]."""
    return answers(learner, tokens, labels) == labels[labels != NO_LABEL]
