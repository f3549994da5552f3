"""The handle by which a context runs the decoder that it stands before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from longatlas import losses
from longatlas.errors import LongAtlasError


class Read:
    """The decoder as a context's `split(tokens, read)` may use it: without the context, as it is at that moment.

    Every call starts from an empty state and is made in eval mode and without gradient, also in training; what modules
    add to the loss in it is not collected. Tokens are integers [B, T], T at least 1, and may come from any device;
    what is returned lies on the decoder's. B need not be that of the input: windows of one length are read fastest
    folded into one batch.

    Raises LongAtlasError for tokens of another form.
    """

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder

    def logits(self, tokens: Tensor) -> Tensor:
        """Logits [B, T, V] of tokens [B, T]: those at t are of the token after t."""
        with _as_evaluated(self._decoder):
            return self._call(self._checked("logits", tokens))[0]

    def hidden(self, tokens: Tensor) -> Tensor:
        """What the head reads of tokens [B, T]: [B, T, d_model].

        Raises UnsupportedError where a `model` method hides it.
        """
        with _as_evaluated(self._decoder):
            x: Tensor = self._decoder.hidden(self._checked("hidden", tokens))[0]
            return x

    def generate(self, tokens: Tensor, steps: int) -> Tensor:
        """The `steps` tokens [B, steps] after tokens [B, T], each the likeliest, of equals the first.

        They are read one at a time, from the state. Raises LongAtlasError for a negative number of steps.
        """
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
            raise LongAtlasError(f"read.generate was asked for {steps!r} steps; give a whole number, 0 or more")
        made, state = self._checked("generate", tokens), None
        written = [made.new_empty(made.shape[0], 0)]
        with _as_evaluated(self._decoder):
            for _ in range(steps):
                logits, state = self._call(made, state)
                made = logits[:, -1:].argmax(-1)
                written.append(made)
        return torch.cat(written, 1)

    def _call(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        out: tuple[Tensor, Any] = self._decoder.core(tokens, state)
        return out

    def _checked(self, what: str, tokens: Any) -> Tensor:
        if not isinstance(tokens, Tensor) or tokens.is_floating_point() or tokens.ndim != 2 or not tokens.shape[1]:
            given = f"{tokens.dtype} {list(tokens.shape)}" if isinstance(tokens, Tensor) else repr(tokens)
            raise LongAtlasError(f"read.{what} was given {given}; give integers [B, T] with T at least 1")
        weight = next(self._decoder.parameters(), tokens)
        return tokens.to(weight.device)


@contextmanager
def _as_evaluated(module: nn.Module) -> Iterator[None]:
    """Eval mode, without gradient and without added losses; modules then are in the mode that they were in."""
    training = [each for each in module.modules() if each.training]
    try:
        for each in training:
            each.training = False
        with torch.no_grad(), losses.ignored():
            yield
    finally:
        for each in training:
            each.training = True
