"""Calls the builders of a combination, and the vanilla ones where it fills nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from longatlas.cards import PEER
from longatlas.combination import Combination, call_with_options
from longatlas.decoder import defaults
from longatlas.decoder.config import DecoderConfig
from longatlas.decoder.projected import ProjectedMixer
from longatlas.decoder.slot_mixer import SlotMixer, SlotOperation, adopt
from longatlas.errors import LongAtlasError
from longatlas.ops import frequencies_of, rotary_embedding
from longatlas.slots import Position, as_attention, as_memory, as_module, as_position, names


class Builders:
    """What a combination puts into each slot of each layer.

    config       of the decoder
    impl         which implementation the builders are told to use

    Raises LongAtlasError where a builder returns something else than its slot takes.
    """

    def __init__(self, config: DecoderConfig, combination: Combination, impl: str) -> None:
        self.config, self.combination, self.impl = config, combination, impl
        self._positions: dict[int, Position] = {}

    def __call__(self, slot: str, layer: int = 0, **more: Any) -> Any:
        """What the builder of a slot returns; `more` are arguments that it is given if it names them."""
        builder, options = self.combination.builder(slot, self.impl) or (getattr(defaults, slot), {})
        impl = "auto" if self.impl.startswith(PEER) else self.impl  # a peer is a builder of its own
        return call_with_options(builder, self.at(layer), {**options, **more, "impl": impl})

    def at(self, layer: int) -> DecoderConfig:
        """The config that builders of a layer are given."""
        return replace(self.config, layer=layer)

    def position(self, layer: int) -> Position:
        """The position slot of a layer, built once, with frequencies as a rotation."""
        if layer not in self._positions:
            self._positions[layer] = _rotating(as_position(self("position", layer)), self.config)
        return self._positions[layer]

    def mixer(self, layer: int) -> nn.Module:
        if not self.combination.fills("mixer"):
            return SlotMixer(self.at(layer), self.operation(layer))
        if not self.combination.takes_rotation:
            return as_module("mixer", self("mixer", layer))
        position = self.position(layer)
        if position.score_mod is not None:
            raise LongAtlasError(
                f"'{self.combination.spec}' has a mixer that takes the rotation of the position slot, which gives a "
                "score_mod; a mixer makes its own scores: leave one of the two out"
            )
        mixer = as_module("mixer", self("mixer", layer, rotate=position.rotate))
        adopt(mixer, "position", (position.rotate,))
        return mixer

    def operation(self, layer: int) -> SlotOperation:
        """position > memory > attention of a layer."""
        memory, attention = as_memory(self("memory", layer)), as_attention(self("attention", layer))
        return SlotOperation(self.position(layer), memory, attention, self.impl)

    def ffn(self, layer: int) -> nn.Module | None:
        if self.config.hidden == 0:
            return None
        return as_module("ffn", self("ffn", layer))


def takes_here(mixer: nn.Module) -> bool:
    """Whether a mixer asks where its call stands."""
    return names(mixer.mix if isinstance(mixer, ProjectedMixer) else mixer.forward, "here")


def _rotating(position: Position, config: DecoderConfig) -> Position:
    if position.frequencies is None:
        return position
    theta, magnitude = position.frequencies(frequencies_of(config), config.train_length)
    rotate = rotary_embedding(config.head_size, frequencies=theta, magnitude=magnitude)
    return replace(position, rotate=rotate, frequencies=None)
