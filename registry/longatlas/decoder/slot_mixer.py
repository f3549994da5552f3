"""The mixer that is made of the three slots position, memory and attention."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from longatlas.decoder.config import DecoderConfig
from longatlas.ops import blockwise_attention
from longatlas.slots import Attention, Memory, Position, Seen, Where


class SlotState(NamedTuple):
    """State of a SlotMixer: the number of tokens read, and what its memory keeps."""

    position: int
    past: Any


class SlotMixer(nn.Module):
    """qkv > position > memory > attention > out, with the three slots filled."""

    def __init__(
        self, config: DecoderConfig, position: Position, memory: Memory, attention: Attention, impl: str
    ) -> None:
        super().__init__()
        self.n_heads, self.kv_heads, self.head_size = config.n_heads, config.kv_heads, config.head_size
        self.q = nn.Linear(config.d_model, config.n_heads * config.head_size, bias=False)
        self.k = nn.Linear(config.d_model, config.kv_heads * config.head_size, bias=False)
        self.v = nn.Linear(config.d_model, config.kv_heads * config.head_size, bias=False)
        self.out = nn.Linear(config.n_heads * config.head_size, config.d_model, bias=False)
        self.position, self.memory, self.attention, self.impl = position, memory, attention, impl
        for name, part in (("position", position), ("memory", memory), ("attention", attention)):
            self._adopt(name, part)

    def _adopt(self, name: str, part: Any) -> None:
        """Register modules whose methods a slot uses, so that their parameters are trained and saved."""
        for function in vars(part).values():
            owner = getattr(function, "__self__", function)
            if isinstance(owner, nn.Module):
                self.add_module(f"{name}_module", owner)

    def forward(self, x: Tensor, state: SlotState | None) -> tuple[Tensor, SlotState]:
        batch, length, _ = x.shape
        q = self.q(x).view(batch, length, self.n_heads, self.head_size)
        k = self.k(x).view(batch, length, self.kv_heads, self.head_size)
        v = self.v(x).view(batch, length, self.kv_heads, self.head_size)
        o, state = self.mix(q, k, v, state)
        return self.out(o.flatten(2)), state

    def mix(self, q: Tensor, k: Tensor, v: Tensor, state: SlotState | None) -> tuple[Tensor, SlotState]:
        """q [B, T, H, D]; k, v [B, T, Hkv, D] before rotation -> o [B, T, H, D]."""
        start, past = state or SlotState(0, None)
        length = q.shape[1]
        here = torch.arange(start, start + length, device=q.device)
        rotate = self.position.rotate
        raw = self.memory.raw_keys or self.attention.raw
        if rotate and not raw:
            q, k = rotate(q, k, here)
        seen = Seen(*self.memory.extend(k, v, past))
        k, v = seen.k, seen.v
        k_positions, q_positions = self._places(seen, here)
        if rotate and raw and not self.attention.raw:
            q = rotate(q, q, q_positions)[0]
            k = rotate(k, k, k_positions)[1]
        where = Where(q_positions, k_positions, rotate if self.attention.raw else None, self.position.score_mod)
        return self._attend(q, k, v, where), SlotState(start + length, seen.past)

    def _places(self, seen: Seen, here: Tensor) -> tuple[Tensor, Tensor]:
        length, keys = here.shape[0], seen.k.shape[1]
        if seen.positions is not None:
            places = seen.positions
        elif self.memory.raw_keys:
            places = torch.arange(keys, device=here.device)
        else:
            return here[0] + torch.arange(length - keys, length, device=here.device), here
        return places, places[keys - length :] if self.memory.raw_keys else here

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, where: Where) -> Tensor:
        if self.attention.forward is not None:
            groups = q.shape[2] // k.shape[2]
            if groups > 1:
                k, v = k.repeat_interleave(groups, 2), v.repeat_interleave(groups, 2)
            o: Tensor = self.attention.forward(q, k, v, where)
            return o
        return blockwise_attention(
            q,
            k,
            v,
            mask_mod=self.attention.mask_mod,
            score_mod=where.score_mod,
            q_positions=where.q_positions,
            k_positions=where.k_positions,
            impl="reference" if self.impl == "reference" else "auto",
        )
