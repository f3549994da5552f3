"""What most mixers are made of: projections to q, k and v, an operation on them, and a projection back."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from longatlas.decoder.config import DecoderConfig


class ProjectedMixer(nn.Module):
    """x > q, k, v > `mix` > out: a mixer whose subclass gives `mix`.

    `mix(q, k, v, state) -> (o, state)`, or `mix(q, k, v, state, here)` where it asks which tokens it reads (see
    longatlas.Here); q [B, T, H, D], k and v [B, T, Hkv, D] before rotation, o [B, T, H, D]. A subclass may override
    `project` for what comes between the projections and the operation, and `finish` for what comes after it.

    q, k, v, out  linear maps without bias, made in this order; with `out=False` the subclass makes `out`, by
                  `projection_out(config)`, after what it draws before it
    """

    def __init__(self, config: DecoderConfig, *, out: bool = True) -> None:
        super().__init__()
        self.n_heads, self.kv_heads, self.head_size = config.n_heads, config.kv_heads, config.head_size
        self.q = nn.Linear(config.d_model, config.width, bias=False)
        self.k = nn.Linear(config.d_model, config.kv_heads * config.head_size, bias=False)
        self.v = nn.Linear(config.d_model, config.kv_heads * config.head_size, bias=False)
        if out:
            self.out = self.projection_out(config)

    @staticmethod
    def projection_out(config: DecoderConfig) -> nn.Linear:
        """The map from all heads together back to d_model."""
        return nn.Linear(config.width, config.d_model, bias=False)

    def forward(self, x: Tensor, state: Any = None, here: Any = None) -> tuple[Tensor, Any]:
        """x [B, T, d_model] -> y [B, T, d_model] and the state after the last token; `here` for a mix that takes it."""
        more = () if here is None else (here,)
        o, state = self.mix(*self.project(x), state, *more)
        return self.finish(o, x), state

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, d_model] -> q [B, T, H, D] and k, v [B, T, Hkv, D]"""
        q, k, v = (project(x).unflatten(2, (-1, self.head_size)) for project in (self.q, self.k, self.v))
        return q, k, v

    def mix(self, q: Tensor, k: Tensor, v: Tensor, state: Any, *here: Any) -> tuple[Tensor, Any]:
        raise NotImplementedError(f"{type(self).__name__} has no mix(q, k, v, state), the operation of the mixer")

    def finish(self, o: Tensor, x: Tensor) -> Tensor:
        """o [B, T, H, D] and the mixer's input x [B, T, d_model] -> y [B, T, d_model]"""
        y: Tensor = self.out(o.flatten(2))
        return y
