"""The mixer that is made of the three slots position, memory and attention."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from longatlas.decoder.config import DecoderConfig
from longatlas.decoder.projected import ProjectedMixer
from longatlas.errors import UnsupportedError
from longatlas.ops import blockwise_attention
from longatlas.ops.arguments import repeated
from longatlas.slots import Attention, Here, Memory, Position, Seen, Where


class SlotOperation(nn.Module):
    """position > memory > attention on q, k and v, with the three slots filled."""

    def __init__(self, position: Position, memory: Memory, attention: Attention, impl: str) -> None:
        super().__init__()
        self.position, self.memory, self.attention, self.impl = position, memory, attention, impl
        adopt(self, "position", (position.rotate, position.score_mod))
        adopt(self, "memory", (memory.extend,))
        adopt(self, "attention", (attention.forward, attention.mask_mod))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, past: Any, here: Here) -> tuple[Tensor, Any]:
        """q [B, T, H, D]; k, v [B, T, Hkv, D] before rotation -> o [B, T, H, D], and what the memory keeps."""
        rotate = here.rotation(self.position.rotate)
        raw = self.memory.raw_keys or self.attention.raw
        if rotate and not raw:
            q, k = rotate(q, k, here.positions)
        seen = Seen(*self.memory.extend(k, v, past, here._replace(q=q)))
        if here.visible is not None and seen.visible is None:
            raise UnsupportedError(
                "its memory does not hand on which keys are padding (Seen.visible); read rows of one length, or use a "
                "batch of 1"
            )
        k, v = seen.k, seen.v
        q_positions, k_positions = self._positions(seen, here)
        if rotate and raw and not self.attention.raw:
            q = rotate(q, q, q_positions)[0]
            k = rotate(k, k, k_positions)[1]
        where = Where(
            q_positions,
            k_positions,
            rotate if self.attention.raw else None,
            here.scoring(self.position.score_mod),
            seen.visible,
        )
        return self._attend(q, k, v, where), seen.past

    def _positions(self, seen: Seen, here: Here) -> tuple[Tensor, Tensor]:
        """Of the queries and of the keys."""
        length, keys = here.length, seen.k.shape[1]
        if seen.positions is not None:
            positions = seen.positions
        elif here.positions.ndim > 1:
            raise UnsupportedError(
                "its memory gives no positions, which a padded batch needs: return Seen(k, v, past, positions), or "
                "read rows of one length"
            )
        elif self.memory.raw_keys:
            positions = torch.arange(keys, device=seen.k.device)
        else:
            return here.positions, here.start + torch.arange(length - keys, length, device=seen.k.device)
        return positions[..., keys - length :] if self.memory.raw_keys else here.positions, positions

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, where: Where) -> Tensor:
        if self.attention.forward is not None:
            if not self.attention.by_row and where.differs_by_row:
                raise UnsupportedError(
                    "its attention does not go by keys that are hidden by row (Attention(by_row=True)); read rows of "
                    "one length, or use a batch of 1"
                )
            k, v = repeated(q.shape[2], k, v)
            o: Tensor = self.attention.forward(q, k, v, where)
            return o
        mixed: Tensor = blockwise_attention(
            q,
            k,
            v,
            mask_mod=self.attention.mask_mod,
            score_mod=where.score_mod,
            q_positions=where.q_positions,
            k_positions=where.k_positions,
            visible=where.visible,
            impl="reference" if self.impl == "reference" else "auto",
        )
        return mixed


class SlotMixer(ProjectedMixer):
    """qkv > SlotOperation > out; its state is what the memory keeps."""

    def __init__(self, config: DecoderConfig, operation: SlotOperation) -> None:
        super().__init__(config)
        self.operation = operation

    def mix(self, q: Tensor, k: Tensor, v: Tensor, state: Any, here: Here) -> tuple[Tensor, Any]:
        return self.operation.mix(q, k, v, state, here)


def adopt(module: nn.Module, name: str, functions: Iterable[Any]) -> None:
    """Register the modules whose methods a slot uses, so that their parameters are trained, moved and saved."""
    owners = [getattr(function, "__self__", function) for function in functions]
    for i, owner in enumerate(dict.fromkeys(owner for owner in owners if isinstance(owner, nn.Module))):
        module.add_module(f"{name}_module{i + 1 if i else ''}", owner)
