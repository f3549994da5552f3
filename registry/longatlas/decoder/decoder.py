"""The decoder with its slots: `decoder(tokens, state) -> (logits, state)`, the same for every method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from longatlas.cards import PEER, Method
from longatlas.combination import Combination, as_combination, call_with_options
from longatlas.decoder import defaults
from longatlas.decoder.config import DecoderConfig
from longatlas.decoder.slot_mixer import SlotMixer
from longatlas.errors import LongAtlasError
from longatlas.slots import Position, as_attention, as_context, as_memory, as_module, as_position


class BlockState(NamedTuple):
    """conv: the last inputs of the short convolution, or None; mixer: the mixer's own state."""

    conv: Tensor | None
    mixer: Any


class DecoderState(NamedTuple):
    """What a decoder carries between calls: the number of tokens read, and each layer's state."""

    position: int
    layers: tuple[BlockState, ...]


class ShortConv(nn.Module):
    """Causal depthwise convolution over the last `taps` tokens, starting as the identity."""

    def __init__(self, width: int, taps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(functional.one_hot(torch.tensor(taps - 1), taps).float().repeat(width, 1, 1))

    def forward(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """x [B, T, d_model]; past: the last taps - 1 inputs [B, taps - 1, d_model]."""
        taps = self.weight.shape[-1]
        if past is None:
            past = x.new_zeros(x.shape[0], taps - 1, x.shape[2])
        seen = torch.cat([past, x], dim=1)
        y = functional.conv1d(seen.transpose(1, 2), self.weight, groups=x.shape[2]).transpose(1, 2)
        return y, seen[:, seen.shape[1] - taps + 1 :]


class Block(nn.Module):
    """norm > mixer > norm > ffn, each with a residual."""

    def __init__(self, config: DecoderConfig, mixer: nn.Module, ffn: nn.Module | None) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(config.d_model, eps=1e-6)
        self.conv = ShortConv(config.d_model, config.short_conv) if config.short_conv else None
        self.mixer = mixer
        self.ffn_norm = nn.RMSNorm(config.d_model, eps=1e-6) if ffn else None
        self.ffn = ffn

    def forward(self, x: Tensor, state: BlockState | None) -> tuple[Tensor, BlockState]:
        conv, mixer = state or BlockState(None, None)
        h = self.norm(x)
        if self.conv is not None:
            h, conv = self.conv(h, conv)
        y, mixer = self.mixer(h, mixer)
        x = x + y
        if self.ffn is not None and self.ffn_norm is not None:
            x = x + self.ffn(self.ffn_norm(x))
        return x, BlockState(conv, mixer)


class Stack(nn.Module):
    """embed > blocks > head: the part of a decoder that a `model` method wraps."""

    def __init__(self, config: DecoderConfig, combination: Combination, impl: str) -> None:
        super().__init__()
        build = _Builders(config, combination, impl)
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.position_embed = build.position(0).embed if not combination.fills("mixer") else None
        self.blocks = nn.ModuleList(
            Block(replace(config, layer=i), build.mixer(i), build.ffn(i)) for i in range(config.n_layers)
        )
        self.norm = nn.RMSNorm(config.d_model, eps=1e-6)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self._initialise()

    def _initialise(self) -> None:
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.head.weight, std=0.02)

    def forward(self, tokens: Tensor, state: DecoderState | None) -> tuple[Tensor, DecoderState]:
        x, state = self.hidden(tokens, state)
        return self.head(x), state

    def hidden(self, tokens: Tensor, state: DecoderState | None) -> tuple[Tensor, DecoderState]:
        """What the head reads, [B, T, d_model], and the state."""
        start = state.position if state else 0
        x = self.embedding(tokens)
        if self.position_embed is not None:
            x = self.position_embed(x, torch.arange(start, start + tokens.shape[1], device=tokens.device))
        layers = []
        for i, block in enumerate(self.blocks):
            x, kept = block(x, state.layers[i] if state else None)
            layers.append(kept)
        return self.norm(x), DecoderState(start + tokens.shape[1], tuple(layers))


class _Builders:
    """Calls the builders of a combination, and the vanilla ones where it fills nothing."""

    def __init__(self, config: DecoderConfig, combination: Combination, impl: str) -> None:
        self.config, self.combination, self.impl = config, combination, impl

    def __call__(self, slot: str, layer: int = 0) -> Any:
        builder, options = self.combination.builder(slot, self.impl) or (getattr(defaults, slot), {})
        impl = "auto" if self.impl.startswith(PEER) else self.impl  # a peer is a builder of its own
        return call_with_options(builder, replace(self.config, layer=layer), {**options, "impl": impl})

    def position(self, layer: int) -> Position:
        return as_position(self("position", layer))

    def mixer(self, layer: int) -> nn.Module:
        if self.combination.fills("mixer"):
            return as_module("mixer", self("mixer", layer))
        return SlotMixer(
            replace(self.config, layer=layer),
            self.position(layer),
            as_memory(self("memory", layer)),
            as_attention(self("attention", layer)),
            self.impl,
        )

    def ffn(self, layer: int) -> nn.Module | None:
        if self.config.hidden == 0:
            return None
        return as_module("ffn", self("ffn", layer))


class Decoder(nn.Module):
    """A decoder-only Transformer with a method, or a combination of methods, in its slots.

    config  its shape
    method  a spec such as "yarn+sliding_window:window=256", a Method or a Combination
    impl    which implementation the builders use: "auto", one of the method's `impls`, or "peer:name" of its `peers`

    `decoder(tokens [B, T], state=None) -> (logits [B, T, V], state)`. Prefill is one long call, decode is calls
    of one token, a stream is calls of segments; training passes no state. A method that fills `context` answers
    a call without a state with the logits of the last token alone, [B, 1, V].

    Raises LongAtlasError for an unknown method, option or impl, and for slots that clash.
    """

    def __init__(
        self, config: DecoderConfig, method: Combination | Method | str = "vanilla", *, impl: str = "auto"
    ) -> None:
        super().__init__()
        self.config = config
        self.combination = as_combination(method)
        self.impl = impl
        _, *named = self.combination.offered
        if impl not in ("auto", *named):
            raise LongAtlasError(f"method '{self.combination.spec}' has no impl '{impl}'; it has: {', '.join(named)}")
        build = _Builders(config, self.combination, impl)
        core: nn.Module = Stack(config, self.combination, impl)
        self.core = build("model")(core) if self.combination.fills("model") else core
        self.context = as_context(build("context")) if self.combination.fills("context") else None
        self._objective: Callable[..., Tensor] = build("objective")

    def forward(self, tokens: Tensor, state: DecoderState | None = None) -> tuple[Tensor, DecoderState]:
        if self.context is None or state is not None:
            out: tuple[Tensor, DecoderState] = self.core(tokens, state)
            return out
        prompt = self.context.split(tokens)
        states = [self.core(window, None)[1] for window in prompt.windows]
        merged = self.context.merge(states) if self.context.merge and states else None
        logits, state = self.core(prompt.tail, merged)
        return logits[:, -1:], state

    def logits_at(self, tokens: Tensor, chosen: Tensor) -> Tensor:
        """Logits [n, V] at the n places of tokens [B, T] where bool chosen [B, T] is true.

        A Stack projects those places alone onto the vocabulary. A `context` is passed by: the places are read in
        one call.
        """
        if isinstance(self.core, Stack):
            x, _ = self.core.hidden(tokens, None)
            logits: Tensor = self.core.head(x[chosen])
            return logits
        every, _ = self.core(tokens, None)
        logits = every[chosen]
        return logits

    def loss(self, tokens: Tensor) -> Tensor:
        """The objective's training loss on tokens [B, T]; a scalar."""
        return self._objective(self, tokens)
