"""The mixer of Infini-attention (arXiv:2404.07143): projections, rotary positions, gate and memory."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from longatlas import DecoderConfig
from longatlas.ops import rotary_embedding
from longatlas_plugins.long_term_memory.infini_attention.operation import infini_attention
from longatlas_plugins.long_term_memory.infini_attention.state import InfiniState


class InfiniMixer(nn.Module):
    """qkv > Infini-attention > out.

    gate  β [H], one scalar per head, 0 at the start: half memory, half local attention
    """

    def __init__(self, config: DecoderConfig, *, segment_len: int, update: str, first_segment: str, impl: str) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_size = config.n_heads, config.kv_heads, config.head_size
        self.q = nn.Linear(config.d_model, self.heads * self.head_size, bias=False)
        self.k = nn.Linear(config.d_model, self.kv_heads * self.head_size, bias=False)
        self.v = nn.Linear(config.d_model, self.kv_heads * self.head_size, bias=False)
        self.out = nn.Linear(self.heads * self.head_size, config.d_model, bias=False)
        self.gate = nn.Parameter(torch.zeros(self.heads))
        self.rotate = rotary_embedding(self.head_size)
        self.segment_len, self.update, self.first_segment = segment_len, update, first_segment
        self.impl = impl

    def forward(self, x: Tensor, state: InfiniState | None = None) -> tuple[Tensor, InfiniState]:
        """x [B, T, d_model] -> y [B, T, d_model] and the state after the last token."""
        q, k, v = (project(x).unflatten(2, (-1, self.head_size)) for project in (self.q, self.k, self.v))
        o, state = self.mix(q, k, v, state)
        return self.out(o.flatten(2)), state

    def mix(self, q: Tensor, k: Tensor, v: Tensor, state: InfiniState | None) -> tuple[Tensor, InfiniState]:
        """q [B, T, H, D]; k, v [B, T, Hkv, D] before rotation -> o [B, T, H, D]"""
        o, after = infini_attention(
            q,
            k,
            v,
            self.gate,
            segment_len=self.segment_len,
            rotate=self.rotate,
            update=self.update,
            first_segment=self.first_segment,
            initial_state=state,
            output_final_state=True,
            impl=self.impl,
        )
        return o, cast(InfiniState, after)
