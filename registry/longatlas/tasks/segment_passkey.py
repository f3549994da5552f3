"""The passkey split over calls: what is answered in the second call must have come through the state."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from longatlas.tasks.passkey import DIGITS, depth_map, recipe
from longatlas.tasks.session import Session
from longatlas.tasks.sweep import Row


def run(session: Session) -> list[Row]:
    """Train as in `passkey`, then give the text in one call and the question in the next."""
    return session.sweep(recipe(session), lambda learner, seed: depth_map(session, seed, partial(_found, learner)))


@torch.no_grad()
def _found(learner: Any, tokens: Tensor, labels: Tensor) -> Tensor:
    """Whether all digits are right; tokens and labels [n, T] end with the question."""
    _, state = learner(tokens[:, :-DIGITS])
    logits, _ = learner(tokens[:, -DIGITS:], state)
    right: Tensor = (logits.argmax(-1) == labels[:, -DIGITS:]).all(1)
    return right
