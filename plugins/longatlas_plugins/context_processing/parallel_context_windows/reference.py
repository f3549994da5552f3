"""Parallel Context Windows (arXiv:2212.10947): one pass over all, with a dense mask and set positions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def layout(length: int, query_len: int, window: int) -> tuple[Tensor, Tensor]:
    """Positions [T], and visible [T, T] (bool): token i sees token j."""
    context = max(length - query_len, 0)
    positions, owner = [], []
    for i in range(length):
        in_window = i < context
        positions.append(i % window if in_window else min(window, context) + i - context)
        owner.append(i // window if in_window else -1)
    visible = torch.zeros(length, length, dtype=torch.bool)
    for i in range(length):
        for j in range(i + 1):
            visible[i, j] = owner[i] in (-1, owner[j])
    return torch.tensor(positions), visible


def last_logits(stack: Any, tokens: Tensor, *, query_len: int, window: int) -> Tensor:
    """Logits of the last token [B, 1, V], with the weights of a vanilla decoder's stack and its rotation."""
    positions, visible = layout(tokens.shape[1], query_len, window)
    x = stack.embedding(tokens)
    for block in stack.blocks:
        x = x + _attend(block.mixer, block.norm(x), positions, visible)
        x = x + block.ffn(block.ffn_norm(x))
    return stack.head(stack.norm(x))[:, -1:]


def _attend(mixer: Any, x: Tensor, positions: Tensor, visible: Tensor) -> Tensor:
    q, k, v = (p(x).unflatten(2, (-1, mixer.head_size)) for p in (mixer.q, mixer.k, mixer.v))
    q, k = mixer.operation.position.rotate(q, k, positions)
    groups = q.shape[2] // k.shape[2]
    outputs = []
    for head in range(q.shape[2]):
        scores = q[:, :, head] @ k[:, :, head // groups].transpose(1, 2) / mixer.head_size**0.5
        weights = scores.masked_fill(~visible, float("-inf")).softmax(2)
        outputs.append(weights @ v[:, :, head // groups])
    return mixer.out(torch.cat(outputs, 2))
