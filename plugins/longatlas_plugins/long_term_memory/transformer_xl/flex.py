"""The Transformer-XL layer (arXiv:1901.02860) whose attention is PyTorch's FlexAttention: a peer."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from longatlas.ops.flex import check_gradient, flex_functions
from longatlas_plugins.long_term_memory.transformer_xl.mixer import TransformerXL


class FlexMixer(TransformerXL):
    """Every piece, a single token too, by one call of flex_attention.

    FlexAttention has no place for a product of queries and distances: it is made before, [B, H, L, K], and added by the
    score_mod.
    """

    def _is_decode(self, *piece: Any) -> bool:
        return False

    def _is_kernel_decode(self, *piece: Any) -> bool:
        return False

    def _operate(self, q: Tensor, k: Tensor, v: Tensor, rel_k: Tensor) -> Tensor:
        check_gradient(q, k, v)
        (batch, queries, heads, size), keys = q.shape, k.shape[1]
        attend, _ = flex_functions(q.device.type)
        distance, mask = _visible(queries, keys, self.window, self.clamp_len, q.device.type)
        u, w = (bias.to(q.dtype) for bias in (self.content_bias, self.position_bias))
        by_distance = torch.einsum("blhd,rhd->bhlr", q + w, rel_k.to(q.dtype)) * size**-0.5
        bias = by_distance.gather(3, distance.expand(batch, heads, -1, -1))

        def score_mod(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return score + bias[b, h, i, j]

        q, k, v = (x.transpose(1, 2) for x in (q + u, k, v))  # [B, H, T, D]
        return attend(q, k, v, score_mod, block_mask=mask).transpose(1, 2)  # type: ignore[no-any-return]


@lru_cache(maxsize=4)
def _visible(queries: int, keys: int, window: int | None, clamp_len: int | None, device: str) -> tuple[Tensor, Any]:
    """The row of rel_k for each pair [L, K], and the BlockMask of the pairs that are seen."""
    memory = keys - queries
    distance = torch.arange(memory, keys, device=device)[:, None] - torch.arange(keys, device=device)

    def seen(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        before = i + memory - j
        return (before >= 0) if window is None else (before >= 0) & (before < window)

    _, create = flex_functions(device)
    most = min(x for x in (keys - 1, clamp_len, None if window is None else window - 1) if x is not None)
    return distance.clamp(0, most), create(seen, None, None, queries, keys, device=device)
