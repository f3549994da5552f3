"""Losses that a method makes inside the model, beside its objective: spans, balance of experts, reconstruction.

A module's forward calls `longatlas.losses.add("balance", value)`; Decoder.loss adds what was collected to the
objective's, and training stores each as a row of its name. Outside of training, add does nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from longatlas.errors import LongAtlasError

if TYPE_CHECKING:
    from torch import Tensor

METRIC = "loss_"  # begins the name of the row that an added loss becomes
NO_LABEL = -100  # in labels: nothing is asked for here

Collected = dict[str, "Tensor"]

_collecting: ContextVar[tuple[Collected, ...]] = ContextVar("longatlas_losses", default=())


def add(name: str, value: Tensor) -> None:
    """Add a scalar to the training loss, already weighted; values of one name are summed over layers and calls.

    Raises LongAtlasError for a value that is no scalar.
    """
    for collected in _collecting.get():
        if value.ndim:
            raise LongAtlasError(
                f"loss '{name}' has shape {list(value.shape)}; it must be a scalar: take its mean or sum"
            )
        collected[name] = collected[name] + value if name in collected else value


@contextmanager
def collect() -> Iterator[Collected]:
    """What is added inside, by name; collections nest, and each has all of it."""
    collected: Collected = {}
    token = _collecting.set((*_collecting.get(), collected))
    try:
        yield collected
    finally:
        _collecting.reset(token)


@contextmanager
def ignored() -> Iterator[None]:
    """What is added inside is not collected."""
    token = _collecting.set(())
    try:
        yield
    finally:
        _collecting.reset(token)
