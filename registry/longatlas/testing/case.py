"""The small decoders that the checks look at."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from longatlas.combination import Combination
from longatlas.decoder.config import DecoderConfig
from longatlas.decoder.decoder import Decoder
from longatlas.errors import LongAtlasError

LARGEST_TOKEN_OPTION = 48


@dataclass(frozen=True)
class Case:
    """A method with the shapes it is checked at.

    scaled  the method with its token-valued options scaled down together (the largest to 48), so that short
            sequences cross segment and window borders
    """

    combination: Combination
    scaled: Combination
    config: DecoderConfig
    device: str = "cpu"

    @cached_property
    def is_context(self) -> bool:
        """Whether the method answers a call without a state with the last tokens' logits only."""
        return self.combination.fills("context")

    def decoder(
        self,
        *,
        impl: str = "auto",
        dtype: torch.dtype = torch.float64,
        seed: int = 0,
        defaults: bool = False,
        train: bool = False,
    ) -> Decoder:
        """A decoder with weights from `seed`, in eval mode unless `train`; `defaults` leaves the options unscaled."""
        torch.manual_seed(seed)
        chosen = self.combination if defaults else self.scaled
        return Decoder(self.config, chosen, impl=impl).to(self.device, dtype).train(train)

    def tokens(self, length: int, *, batch: int = 2, seed: int = 1) -> Tensor:
        """Random tokens [batch, length]."""
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(self.config.vocab_size, (batch, length), generator=generator)
        return drawn.to(self.device)

    def start(self, decoder: Decoder, batch: int = 2) -> Any:
        """The state that a check starts from: none, or for a context method that of a read prompt."""
        if not self.is_context:
            return None
        return decoder(self.tokens(200, batch=batch, seed=7))[1]


def make_case(combination: Combination, device: str = "cpu") -> Case:
    """The case for a method or a combination."""
    config = DecoderConfig(vocab_size=61, d_model=64, n_layers=2, n_heads=4, train_length=64)
    return Case(combination, _scaled(combination, config), config, device)


def _scaled(combination: Combination, config: DecoderConfig) -> Combination:
    scaled = combination.with_lengths(LARGEST_TOKEN_OPTION)
    try:
        Decoder(config, scaled)
    except LongAtlasError:
        return combination
    return scaled
