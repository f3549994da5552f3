"""Attention by PyTorch's FlexAttention: a peer of methods whose attention is a mask_mod."""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import torch
from torch import Tensor

from longatlas.errors import UnsupportedError
from longatlas.slots import Attention, MaskMod, Where


def flex_attention(mask_mod: MaskMod) -> Attention:
    """An Attention that runs torch.nn.attention.flex_attention: compiled on a GPU, eager on a CPU.

    mask_mod  mask_mod(b, h, q_idx, kv_idx) -> bool, of positions alone; causality is added to it, and the position
              slot's score_mod to the scores

    Its BlockMask is kept for as long as calls have the same positions, as the layers of a decoder do and the
    repetitions of a measurement. Calls raise UnsupportedError where a gradient is wanted on a CPU.
    """
    mask_of = _BlockMasks(mask_mod)

    def forward(q: Tensor, k: Tensor, v: Tensor, where: Where) -> Tensor:
        place, score = where, where.score_mod

        def score_mod(s: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Any:
            assert score is not None
            return score(s, b, h, place.q_positions[i], place.k_positions[j])

        check_gradient(q, k, v)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # [B, H, T, D]
        attend, _ = flex_functions(q.device.type)
        return attend(q, k, v, score_mod if score else None, block_mask=mask_of(where)).transpose(1, 2)  # type: ignore[no-any-return]

    return Attention(forward=forward)


def check_gradient(*tensors: Tensor) -> None:
    """Raise UnsupportedError where FlexAttention would have to give a gradient on a CPU."""
    if torch.is_grad_enabled() and any(x.requires_grad and x.device.type == "cpu" for x in tensors):
        raise UnsupportedError("FlexAttention has no gradient on a CPU, so it cannot be compared here; it needs a GPU")


@cache
def flex_functions(device: str) -> tuple[Any, Any]:
    """PyTorch's flex_attention and create_block_mask; on a CPU eager."""
    from torch.nn.attention import flex_attention as flex

    if device == "cpu":
        return flex.flex_attention, flex.create_block_mask
    # Eager, a BlockMask is cut out of a mask of T x S; compiled, that is never in memory.
    return torch.compile(flex.flex_attention, dynamic=False), torch.compile(flex.create_block_mask)


class _BlockMasks:
    """The BlockMask of the last positions."""

    def __init__(self, mask_mod: MaskMod) -> None:
        self._mask_mod, self._where, self._mask = mask_mod, cast("Where | None", None), cast(Any, None)

    def __call__(self, where: Where) -> Any:
        if self._where is None or not _same_places(self._where, where):
            self._where, self._mask = where, self._made(where)
        return self._mask

    def _made(self, where: Where) -> Any:
        q_at, k_at = where.q_positions, where.k_positions

        def seen(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Any:
            return (k_at[j] <= q_at[i]) & self._mask_mod(b, h, q_at[i], k_at[j])

        _, create = flex_functions(q_at.device.type)
        return create(seen, None, None, len(q_at), len(k_at), device=q_at.device.type)


def _same_places(a: Where, b: Where) -> bool:
    return torch.equal(a.q_positions, b.q_positions) and torch.equal(a.k_positions, b.k_positions)
