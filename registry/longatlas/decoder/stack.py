"""embed > blocks > head: the part of a decoder that a `model` method wraps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from longatlas.decoder.builders import Builders, takes_here
from longatlas.decoder.config import DecoderConfig
from longatlas.decoder.slot_mixer import adopt
from longatlas.decoder.state import BlockState, DecoderState, here
from longatlas.errors import LongAtlasError
from longatlas.slots import Here


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
        self._takes_here = takes_here(mixer)

    def forward(self, x: Tensor, state: BlockState | None, here: Here) -> tuple[Tensor, BlockState]:
        """x [B, T, d_model] -> the same shape; state None = nothing was read."""
        conv, mixer = state or BlockState(None, None)
        h = self.norm(x)
        if self.conv is not None:
            h, conv = self.conv(h, conv)
        y, mixer = self.mixer(h, mixer, here) if self._takes_here else self.mixer(h, mixer)
        x = x + y
        if self.ffn is not None and self.ffn_norm is not None:
            x = x + self.ffn(self.ffn_norm(x))
        return x, BlockState(conv, mixer)


class Stack(nn.Module):
    """embed > blocks > head. A wrapper may call `run` with embeddings of its own, and may enlarge `embedding`."""

    def __init__(self, build: Builders) -> None:
        super().__init__()
        config = build.config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.embed_position, self.draw = None, None
        if not build.combination.fills("mixer") or build.combination.takes_rotation:
            position = build.position(0)
            self.embed_position, self.draw = position.embed, position.draw
            adopt(self, "position", (position.embed,))
        self.blocks = nn.ModuleList(Block(build.at(i), build.mixer(i), build.ffn(i)) for i in range(config.n_layers))
        self.norm = nn.RMSNorm(config.d_model, eps=1e-6)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.head.weight, std=0.02)

    def forward(self, tokens: Tensor, state: DecoderState | None = None, **how: Any) -> tuple[Tensor, DecoderState]:
        """Logits [B, T, V] and the state; arguments as `run` takes them."""
        x, state = self.hidden(tokens, state, **how)
        return self.head(x), state

    def hidden(self, tokens: Tensor, state: DecoderState | None = None, **how: Any) -> tuple[Tensor, DecoderState]:
        """What the head reads, [B, T, d_model], and the state; arguments as `run` takes them."""
        return self.run(self.embedding(tokens), state, **how)

    def run(self, x: Tensor, state: DecoderState | None = None, **how: Any) -> tuple[Tensor, DecoderState]:
        """From embeddings x [B, T, d_model] to what the head reads, [B, T, d_model], and the state.

        how  positions, places, visible: see longatlas.decoder.state.here

        Raises LongAtlasError for a state of another number of layers and for what does not fit x.
        """
        start, layers = state or DecoderState()
        if layers and len(layers) != len(self.blocks):
            raise LongAtlasError(f"the state holds {len(layers)} layers; this stack has {len(self.blocks)}")
        now = here(start, x, **how)
        if self.embed_position is not None:
            x = self.embed_position(x, now.positions if now.places is None else now.places)
        kept = []
        for i, block in enumerate(self.blocks):
            x, after = block(x, layers[i] if layers else None, now)
            kept.append(after)
        return self.norm(x), DecoderState(start + x.shape[1], tuple(kept))
