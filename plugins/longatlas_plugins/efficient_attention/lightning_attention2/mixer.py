"""TransNormerLLM's block around Lightning Attention-2 (arXiv:2307.14995, arXiv:2401.04658)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from longatlas import DecoderConfig, ProjectedMixer
from longatlas.ops.arguments import repeated
from longatlas_plugins.efficient_attention.lightning_attention2.decay import decay_slopes
from longatlas_plugins.efficient_attention.lightning_attention2.operation import lightning_attention


class LightningState(NamedTuple):
    """kv  S [B, H, D, D], fp32 (fp64 for fp64 inputs): the decayed sum of k_t^T v_t over all tokens read"""

    kv: Tensor


class LightningMixer(ProjectedMixer):
    """SiLU(q), SiLU(k), v > lightning attention > RMSNorm > sigmoid gate > out.

    decay  rates [H], a buffer; it stays in fp32 in a module of lower precision
    """

    decay: Tensor

    def __init__(self, config: DecoderConfig, *, decay: str, impl: str) -> None:
        super().__init__(config, out=False)
        self.gate = nn.Linear(config.d_model, config.width, bias=False)
        self.norm = nn.RMSNorm(config.width, eps=1e-6)
        self.out = self.projection_out(config)
        rates = decay_slopes(self.n_heads, config.layer, config.n_layers, kind=decay)
        self.register_buffer("decay", rates)
        self.impl = impl

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().project(x)
        return functional.silu(q), functional.silu(k), v

    def finish(self, o: Tensor, x: Tensor) -> Tensor:
        y: Tensor = self.out(self.norm(o.flatten(2)) * torch.sigmoid(self.gate(x)))
        return y

    def mix(self, q: Tensor, k: Tensor, v: Tensor, state: LightningState | None) -> tuple[Tensor, LightningState]:
        """q [B, T, H, D]; k, v [B, T, Hkv, D] -> o [B, T, H, D]; fewer heads of k and v are repeated."""
        k, v = repeated(self.n_heads, k, v)
        o, kv = self._operate(q, k, v, state.kv if state else None)
        return o, LightningState(kv)

    def _operate(self, q: Tensor, k: Tensor, v: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """q, k, v [B, T, H, D]; S [B, H, D, D] or None -> o [B, T, H, D] and S after the last token."""
        o, kv = lightning_attention(q, k, v, self.decay, initial_state=state, output_final_state=True, impl=self.impl)
        return o, cast(Tensor, kv)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> LightningMixer:
        # In bf16 a rate has three digits: after a thousand tokens the state would differ by percents.
        rates = self.decay
        super()._apply(fn, recurse)
        if self.decay.dtype != torch.float32 and not rates.is_meta:
            self.decay = rates.to(self.decay.device)
        return self
