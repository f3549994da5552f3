"""The mixer of the Linear Transformer (arXiv:2006.16236): projections around normalised linear attention."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from longatlas import DecoderConfig
from longatlas_plugins.efficient_attention.linear_transformer.operation import linear_attention
from longatlas_plugins.efficient_attention.linear_transformer.state import LinearState


class LinearMixer(nn.Module):
    """qkv > linear attention > out; no positions."""

    def __init__(self, config: DecoderConfig, *, impl: str) -> None:
        super().__init__()
        self.heads, self.head_size = config.n_heads, config.head_size
        self.q = nn.Linear(config.d_model, self.heads * self.head_size, bias=False)
        self.k = nn.Linear(config.d_model, config.kv_heads * self.head_size, bias=False)
        self.v = nn.Linear(config.d_model, config.kv_heads * self.head_size, bias=False)
        self.out = nn.Linear(self.heads * self.head_size, config.d_model, bias=False)
        self.impl = impl

    def forward(self, x: Tensor, state: LinearState | None = None) -> tuple[Tensor, LinearState]:
        """x [B, T, d_model] -> y [B, T, d_model] and the state after the last token."""
        q, k, v = (project(x).unflatten(2, (-1, self.head_size)) for project in (self.q, self.k, self.v))
        o, state = self.mix(q, k, v, state)
        return self.out(o.flatten(2)), state

    def mix(self, q: Tensor, k: Tensor, v: Tensor, state: LinearState | None) -> tuple[Tensor, LinearState]:
        """q [B, T, H, D]; k, v [B, T, Hkv, D] -> o [B, T, H, D]; fewer heads of k and v are repeated."""
        if k.shape[2] != self.heads:
            k, v = (x.repeat_interleave(self.heads // x.shape[2], 2) for x in (k, v))
        o, after = linear_attention(q, k, v, initial_state=state, output_final_state=True, impl=self.impl)
        return o, cast(LinearState, after)
