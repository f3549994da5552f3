"""The mixer of the Memorizing Transformer (arXiv:2203.08913): projections, scale, gate and memory."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from longatlas import DecoderConfig, Here, LongAtlasError
from longatlas.ops.segments import check_segments
from longatlas.slots import Rotate
from longatlas_plugins.long_term_memory.memorizing_transformer.operation import memorizing_attention
from longatlas_plugins.long_term_memory.memorizing_transformer.state import Carried, MemorizingState


class MemorizingMixer(nn.Module):
    """qkv > local attention and, in the memory layer, nearest-neighbour attention > out.

    scale  [H]: factor on the normalised dot products, sqrt(D) at the start
    gate   b_g [H], 0 at the start: half memory, half local attention; None in layers without memory
    """

    def __init__(
        self,
        config: DecoderConfig,
        *,
        segment_len: int,
        memory_size: int,
        top_k: int,
        memory_layer: int,
        xl_cache: bool,
        rotate: Rotate | None,
        impl: str,
    ) -> None:
        super().__init__()
        if not -1 <= memory_layer < config.n_layers:
            raise LongAtlasError(
                f"memory_layer is {memory_layer}; with {config.n_layers} layers it must be -1 (the last) to "
                f"{config.n_layers - 1}"
            )
        self.heads, self.kv_heads, self.head_size = config.n_heads, config.kv_heads, config.head_size
        self.q = nn.Linear(config.d_model, self.heads * self.head_size, bias=False)
        self.k = nn.Linear(config.d_model, self.kv_heads * self.head_size, bias=False)
        self.v = nn.Linear(config.d_model, self.kv_heads * self.head_size, bias=False)
        self.out = nn.Linear(self.heads * self.head_size, config.d_model, bias=False)
        self.scale = nn.Parameter(torch.full((self.heads,), self.head_size**0.5))
        has_memory = config.layer == memory_layer % config.n_layers
        self.gate = nn.Parameter(torch.zeros(self.heads)) if has_memory else None
        self.rotate = rotate
        self.segment_len, self.memory_size, self.top_k = segment_len, memory_size, top_k
        self.xl_cache, self.impl = xl_cache, impl

    def forward(self, x: Tensor, state: Carried | None, here: Here) -> tuple[Tensor, Carried]:
        """x [B, T, d_model] -> y [B, T, d_model] and the state after the last token."""
        q, k, v = (project(x).unflatten(2, (-1, self.head_size)) for project in (self.q, self.k, self.v))
        o, state = self.mix(q, k, v, state, here)
        return self.out(o.flatten(2)), state

    def mix(self, q: Tensor, k: Tensor, v: Tensor, state: Carried | None, here: Here) -> tuple[Tensor, Carried]:
        """q [B, T, H, D]; k, v [B, T, Hkv, D] before rotation -> o [B, T, H, D]"""
        check_segments(here, self.segment_len, "memorizing_transformer", has_state=state is not None)
        o, after = memorizing_attention(
            q,
            k,
            v,
            self.scale,
            self.gate,
            segment_len=self.segment_len,
            memory_size=self.memory_size,
            top_k=self.top_k,
            xl_cache=self.xl_cache,
            rotate=here.rotation(self.rotate),
            initial_state=None if state is None else MemorizingState(*state, here.start),
            output_final_state=True,
            impl=self.impl,
        )
        return o, Carried(*cast(MemorizingState, after)[:-1])
