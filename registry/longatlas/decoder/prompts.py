"""How a long input is read through a context: split > windows > merge > tail."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from longatlas.decoder.read import Read
from longatlas.errors import LongAtlasError
from longatlas.slots import Context, Prompt, names


def make_prompt(decoder: Any, tokens: Tensor) -> Prompt:
    """What the context of a decoder makes of tokens [B, T]. Raises LongAtlasError where it is no Prompt for them."""
    context: Context = decoder.context
    if not tokens.shape[1]:
        raise LongAtlasError(f"a prompt is {list(tokens.shape)}; a context is given at least one token")
    prompt = context.split(tokens, read=Read(decoder)) if context.reads else context.split(tokens)
    _check(prompt, tokens, context)
    return prompt


def answer(decoder: Any, tokens: Tensor) -> tuple[Tensor, Any]:
    """Logits [B, n, V] of the last n tokens of [B, T], those that the context answers, and the state after them."""
    context, prompt = decoder.context, make_prompt(decoder, tokens)
    states = [decoder.core(window, None)[1] for window in prompt.windows]
    logits, state = decoder.core(prompt.tail, _merged(context, states, prompt) if states else None)
    return logits[:, -context.answered(prompt) :], state


def _merged(context: Context, states: list[Any], prompt: Prompt) -> Any:
    assert context.merge is not None  # as _check holds
    state = context.merge(states, prompt=prompt) if names(context.merge, "prompt") else context.merge(states)
    if state is None:
        raise LongAtlasError(
            f"a context's merge made None of {len(states)} states; it must return the one that the tail goes on from"
        )
    return state


def _check(prompt: Any, tokens: Tensor, context: Context) -> None:
    if not isinstance(prompt, Prompt):
        raise LongAtlasError(f"a context's split returned {prompt!r}; it must return longatlas.Prompt(windows, tail)")
    batch = tokens.shape[0]
    _check_tokens("a tail", prompt.tail, batch, folds=False)
    for i, window in enumerate(prompt.windows):
        _check_tokens(f"window {i}", window, batch, folds=True)
    if len(prompt.windows) and context.merge is None:
        raise LongAtlasError(
            f"a context's split made {len(prompt.windows)} windows, and the context has no merge, so that its tail "
            "would see none of them; give Context(split, merge), or no windows: Prompt((), tail)"
        )
    most, answered = min(prompt.tail.shape[1], tokens.shape[1]), context.answered(prompt)
    if type(answered) is not int or not 1 <= answered <= most:
        raise LongAtlasError(
            f"a context's split made a tail of {prompt.tail.shape[1]} tokens of {tokens.shape[1]}, with "
            f"scored={prompt.scored}, and scores its tail; the scored tokens are the input's own, 1 to {most}: say how "
            "many of the tail's last tokens these are"
        )


def _check_tokens(what: str, given: Any, batch: int, *, folds: bool) -> None:
    """`folds`: the rows may be several windows of each text."""
    if isinstance(given, Tensor) and not given.is_floating_point() and given.ndim == 2:
        rows, length = given.shape
        if length and (rows == batch or (folds and batch and rows and rows % batch == 0)):
            return
    form = f"{given.dtype} {list(given.shape)}" if isinstance(given, Tensor) else repr(given)
    wanted = f"[{batch}, W], or [n {batch}, W] for n windows folded into one" if folds else f"[{batch}, Tq]"
    raise LongAtlasError(
        f"a context's split returned {what} that is {form}; of a batch of {batch} it must be integers {wanted}, with "
        "at least one token a row"
    )
