"""Published formulations that the built-in implementations are timed against."""

from __future__ import annotations

import torch
from torch import Tensor


def einsum_and_shift_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_k: Tensor,
    content_bias: Tensor,
    position_bias: Tensor,
) -> Tensor:
    """Transformer-XL's attention in the layout and the steps of its authors (arXiv:1901.02860, appendix B).

    Scores are [L, K, B, H]; the positional term is shifted by padding a column, viewing and dropping a row.
    q [B, L, H, D]; k, v [B, K, H, D], memory first; rel_k [K, H, D] by distance; biases [H, D]; o [B, L, H, D].
    """
    q, k, v = (x.transpose(0, 1) for x in (q, k, v))  # [L, B, H, D]
    queries, keys = q.shape[0], k.shape[0]
    content = torch.einsum("lbhd,kbhd->lkbh", q + content_bias, k)
    position = torch.einsum("lbhd,khd->lkbh", q + position_bias, rel_k[:keys].flip(0))
    column = position.new_zeros(queries, 1, *position.shape[2:])
    shifted = torch.cat([column, position], 1).view(keys + 1, queries, *position.shape[2:])[1:]
    scores = (content + shifted.view_as(position)).mul_(q.shape[-1] ** -0.5)
    later = torch.ones(queries, keys, dtype=torch.bool, device=q.device).triu(1 + keys - queries)
    weights = torch.softmax(scores.masked_fill(later[:, :, None, None], float("-inf")), 1)
    return torch.einsum("lkbh,kbhd->lbhd", weights, v).transpose(0, 1)
