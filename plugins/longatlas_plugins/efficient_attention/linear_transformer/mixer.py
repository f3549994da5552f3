"""The mixer of the Linear Transformer (arXiv:2006.16236): projections around normalised linear attention."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from longatlas import DecoderConfig, ProjectedMixer
from longatlas.ops.arguments import repeated
from longatlas_plugins.efficient_attention.linear_transformer.operation import linear_attention
from longatlas_plugins.efficient_attention.linear_transformer.state import LinearState


class LinearMixer(ProjectedMixer):
    """qkv > linear attention > out; no positions."""

    def __init__(self, config: DecoderConfig, *, impl: str) -> None:
        super().__init__(config)
        self.impl = impl

    def mix(self, q: Tensor, k: Tensor, v: Tensor, state: LinearState | None) -> tuple[Tensor, LinearState]:
        """q [B, T, H, D]; k, v [B, T, Hkv, D] -> o [B, T, H, D]; fewer heads of k and v are repeated."""
        k, v = repeated(self.n_heads, k, v)
        o, after = linear_attention(q, k, v, initial_state=state, output_final_state=True, impl=self.impl)
        return o, cast(LinearState, after)
