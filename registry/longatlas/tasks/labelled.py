"""What tasks have in common that draw labelled sequences: batches from a seed, a host, and accuracy on unseen draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from longatlas.decoder.config import DecoderConfig
from longatlas.tasks.training import HELD_OUT_SEED, Batches

Settings = Mapping[str, Any]
Draw = Callable[[Settings, int, torch.Generator], tuple[Tensor, Tensor]]
"""draw(settings, batch, generator) -> tokens [batch, T], labels [batch, T]"""


def host(settings: Settings, vocab: int, length: int, **shape: Any) -> DecoderConfig:
    """The decoder of a labelled task: two layers unless the preset says otherwise.

    conv   taps of the short convolution before each mixer: 0, or 3
    ffn    hidden width of the feed-forward part; 0 = none
    """
    return DecoderConfig(
        vocab_size=vocab,
        d_model=settings["d_model"],
        n_layers=settings.get("layers", 2),
        n_heads=settings.get("heads", 2),
        ffn_hidden=settings.get("ffn"),
        short_conv=settings["conv"],
        train_length=length,
        **shape,
    )


def batches(draws: Sequence[Callable[[torch.Generator], tuple[Tensor, Tensor]]], seed: int, device: str) -> Batches:
    """Endless batches from a seed, of each draw in turn: the same for every method."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for draw in draws:
            tokens, labels = draw(generator)
            yield tokens.to(device), labels.to(device)


def unseen(seed: int, part: int = 0) -> torch.Generator:
    """A generator for testing; `part` sets lengths, depths and the like apart."""
    return torch.Generator().manual_seed(seed + 2 * HELD_OUT_SEED + part)
