"""Lightning Attention-2's operation (arXiv:2401.04658) by flash-linear-attention's simple_gla: a peer."""

from __future__ import annotations

from fla.ops.simple_gla import chunk_simple_gla, fused_recurrent_simple_gla
from torch import Tensor

from longatlas_plugins.efficient_attention.lightning_attention2.mixer import LightningMixer


class FlaMixer(LightningMixer):
    """chunk_simple_gla, and for a single token fused_recurrent_simple_gla, with g_gamma = -decay."""

    def _operate(self, q: Tensor, k: Tensor, v: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        kernel = fused_recurrent_simple_gla if q.shape[1] == 1 else chunk_simple_gla
        o, after = kernel(q, k, v, g_gamma=-self.decay, scale=1.0, initial_state=state, output_final_state=True)
        return o, after
