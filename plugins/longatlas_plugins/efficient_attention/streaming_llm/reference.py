"""StreamingLLM as its paper tells it (arXiv:2309.17453, section 3.2): a cache that is rotated anew for every token."""

from __future__ import annotations

import torch
from torch import Tensor

from longatlas import Where


def attend(q: Tensor, k: Tensor, v: Tensor, where: Where, *, sinks: int, window: int) -> Tensor:
    """q [B, T, H, D]; k [B, S, H, D]; v [B, S, H, E], all before rotation; o [B, T, H, E]."""
    outputs = []
    for i, place in enumerate(where.q_positions.tolist()):
        past = where.k_positions <= place
        cached = past & ((where.k_positions < sinks) | (where.k_positions > place - window))
        keys, values, query = k[:, cached], v[:, cached], q[:, i : i + 1]
        places = torch.arange(keys.shape[1], device=q.device)
        if where.rotate is not None:
            keys = where.rotate(keys, keys, places)[1]
            query = where.rotate(query, query, places[-1:])[0]
        scores = torch.einsum("bthd,bshd->bhts", query, keys) * q.shape[-1] ** -0.5
        if where.score_mod is not None:
            b, h = torch.arange(q.shape[0]).view(-1, 1, 1, 1), torch.arange(q.shape[2]).view(1, -1, 1, 1)
            scores = where.score_mod(scores, b, h, places[-1:, None], places[None])
        outputs.append(torch.einsum("bhts,bshe->bthe", torch.softmax(scores, -1), values))
    return torch.cat(outputs, 1)
