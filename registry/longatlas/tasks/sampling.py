"""Batches of text drawn by a method's sampler (Method.sampler) in place of the task's own.

    sampler(text, length, batch, seed, steps, **options)

    text      uint8 [N], the training text
    length    tokens that a row of the task's own batches asks for; such a row has length + 1 tokens
    batch     rows of the task's own batches
    seed      for a generator of its own: the same seed gives the same batches
    steps     of the training, at most: what a curriculum's ramp is measured by
    options   those of the method's options that it names

It yields whole numbers [rows, tokens], one batch for each step. Rows and their length may change from step to step; a
batch may ask for no more next tokens than the task's own do, so that methods compare.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from longatlas.combination import Part, taken
from longatlas.errors import LongAtlasError
from longatlas.tasks.training import Batches, Recipe


def batches_of(recipe: Recipe, part: Part | None, *, batch: int, steps: int, device: str) -> Callable[[int], Batches]:
    """The batches that a recipe is trained on: those of a part's sampler where both it and the recipe's text are there.

    batch  rows of the recipe's own batches
    """
    if part is None or recipe.text is None:
        return recipe.batches
    return partial(_sampled, recipe, part, batch, steps, device)


def _sampled(recipe: Recipe, part: Part, batch: int, steps: int, device: str, seed: int) -> Batches:
    sampler, length = part.method.sampler, recipe.config.train_length
    assert sampler is not None
    drawn = sampler(recipe.text, length, batch, seed, steps, **taken(sampler, part.options))
    number = 0
    for number, tokens in enumerate(drawn, 1):
        wrong = _wrong(tokens, batch, length, recipe.config.vocab_size)
        if wrong:
            raise LongAtlasError(f"the sampler of method '{part.method.name}' gave {wrong} as batch {number}")
        yield tokens.long().to(device), None
    raise LongAtlasError(
        f"the sampler of method '{part.method.name}' ended after {number} batches; it must yield one for each step"
    )


def _wrong(tokens: Any, batch: int, length: int, vocab_size: int) -> str:
    """What is wrong with a batch, in words that tell the rule; nothing where it is right."""
    if not isinstance(tokens, Tensor) or tokens.is_floating_point() or tokens.dtype == torch.bool:
        told = f"{tokens.dtype}" if isinstance(tokens, Tensor) else f"a {type(tokens).__name__}"
        return f"{told}; it must yield tensors of whole numbers [rows, tokens]"
    shape = list(tokens.shape)
    if tokens.ndim != 2 or shape[0] < 1 or shape[1] < 2:
        return f"a tensor {shape}; it must be [rows, tokens] with at least 2 tokens in a row"
    if shape[0] * (shape[1] - 1) > batch * length:
        return (
            f"a tensor {shape}, which asks for {shape[0] * (shape[1] - 1)} next tokens; {batch} rows of {length} are "
            "what all methods are given: take fewer rows, or shorter ones"
        )
    least, most = int(tokens.min()), int(tokens.max())
    if least < 0 or most >= vocab_size:
        return f"tokens from {least} to {most}; they must lie between 0 and {vocab_size - 1}"
    return ""
