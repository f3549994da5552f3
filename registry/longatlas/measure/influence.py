"""Which earlier tokens an output depends on, found by differentiating the running code.

The picture a paper draws of its mask, made from what the method does: it needs no mask, so it shows memories,
recurrences, contexts and methods that nobody has drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from longatlas.combination import Combination, as_combination
from longatlas.decoder.config import DecoderConfig
from longatlas.decoder.decoder import Decoder
from longatlas.errors import LongAtlasError
from longatlas.measure.influence_map import MOST_TOKENS, TOKENS, Influence

_DIRECTIONS = 8


def influence(method: Combination | str, *, tokens: int | None = None, layers: int = 1, seed: int = 0) -> Influence:
    """Differentiate a small fp64 decoder with random weights; `tokens` different tokens are read once.

    They are read in one call, but one at a time where a method fills the slot `memory` without `attention`.

    tokens  2 to 256; None = 32, or 64 where a method's options cannot be made that short

    The value for (i, j) is the root mean square, over random directions of output i, of the gradient's norm. A
    stop-gradient hides nothing: what is detached is followed all the same, for an output depends on it. Options in
    tokens longer than half the sequence are scaled to a quarter of it, or to half where a method's differ.

    Raises LongAtlasError for sizes out of range, and where no gradient reaches the embedding.
    """
    if tokens is not None and not 2 <= tokens <= MOST_TOKENS:
        raise LongAtlasError(f"influence tokens is {tokens}; it must be 2 to {MOST_TOKENS}")
    if not 1 <= layers <= 8:
        raise LongAtlasError(f"influence layers is {layers}; it must be 1 to 8")
    torch.manual_seed(seed)
    decoder, tokens = _decoder(as_combination(method), tokens, layers)
    combination = decoder.combination
    weight = _embedding(decoder, tokens)
    directions = torch.randn(_DIRECTIONS, tokens, dtype=torch.float64)
    with _Attached():
        rows = [_row(logits, weight, directions) for logits in _outputs(decoder, combination, tokens)]
    return Influence(combination.spec, layers, tuple(tuple(float(f"{v:.4g}") for v in row.tolist()) for row in rows))


def _decoder(combination: Combination, tokens: int | None, layers: int) -> tuple[Decoder, int]:
    """A decoder with as many words as tokens, each read once: a word's row of the embedding then stands for its
    place, wherever a method moves it."""
    for length in (TOKENS, 2 * TOKENS) if tokens is None else (tokens,):
        config = DecoderConfig(vocab_size=length, d_model=64, n_layers=layers, n_heads=4, train_length=length)
        try:
            return Decoder(config, _shortened(combination, length)).double(), length
        except LongAtlasError:
            continue  # some options need a least length beside each other
    return Decoder(config, combination).double(), length


def _shortened(combination: Combination, tokens: int) -> Combination:
    lengths = [
        {int(p.options[o.name]) for o in p.method.options if o.unit == "tokens" and p.options[o.name]}
        for p in combination.parts
    ]
    if max((max(found, default=0) for found in lengths), default=0) <= tokens // 2:
        return combination
    return combination.with_lengths(max(1, tokens // (2 if any(len(found) > 1 for found in lengths) else 4)))


def _embedding(decoder: Decoder, tokens: int) -> Tensor:
    for module in decoder.modules():
        if isinstance(module, nn.Embedding) and module.num_embeddings == tokens:
            return module.weight
    raise LongAtlasError(
        f"method '{decoder.combination.spec}' leaves no embedding of the vocabulary in the decoder, by which influence "
        "is differentiated; keep the decoder's nn.Embedding"
    )


def _outputs(decoder: Decoder, combination: Combination, tokens: int) -> Iterable[Tensor]:
    """The logits [V] of each place; a context answers with its last token's alone, so every beginning is read.

    A memory alone shows all of what is read in one call, and what it keeps shows in later calls only: there tokens are
    read one at a time.
    """
    text = torch.arange(tokens)[None]
    if combination.fills("context"):
        for end in range(1, tokens + 1):
            yield decoder(text[:, :end])[0][0, -1]
    elif _keeps_between_calls(combination):
        state = None
        for place in range(tokens):
            logits, state = decoder(text[:, place : place + 1], state)
            yield logits[0, -1]
    else:
        yield from decoder(text)[0][0]


def _keeps_between_calls(combination: Combination) -> bool:
    """Whether a part fills memory and no attention that hides in one call what the memory would have lost."""
    alone = any("memory" in p.method.fills and "attention" not in p.method.fills for p in combination.parts)
    return alone and not combination.fills("mixer")


def _row(logits: Tensor, weight: Tensor, directions: Tensor) -> Tensor:
    if not logits.requires_grad:
        raise LongAtlasError("no gradient reaches the embedding; a method must not run its decoder under no_grad")
    total = torch.zeros(weight.shape[0], dtype=torch.float64)
    for direction in directions:
        (slope,) = torch.autograd.grad(logits, weight, direction, retain_graph=True, allow_unused=True)
        if slope is not None:
            total += slope.square().sum(1)
    return (total / len(directions)).sqrt()


class _Attached(TorchFunctionMode):
    """Makes detach the identity."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (torch.Tensor.detach, torch.Tensor.detach_, torch.detach, torch.detach_):
            return args[0]
        return func(*args, **(kwargs or {}))
