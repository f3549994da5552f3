"""The mixer of the Memorizing Transformer (arXiv:2203.08913): projections, scale, gate and memory."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from longatlas import DecoderConfig, Here, LongAtlasError, ProjectedMixer
from longatlas.ops.segments import check_segments
from longatlas.slots import Rotate
from longatlas_plugins.long_term_memory.memorizing_transformer.operation import memorizing_attention
from longatlas_plugins.long_term_memory.memorizing_transformer.state import Carried, MemorizingState


class MemorizingMixer(ProjectedMixer):
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
        if not -1 <= memory_layer < config.n_layers:
            raise LongAtlasError(
                f"memory_layer is {memory_layer}; with {config.n_layers} layers it must be -1 (the last) to "
                f"{config.n_layers - 1}"
            )
        super().__init__(config)
        self.scale = nn.Parameter(torch.full((self.n_heads,), self.head_size**0.5))
        has_memory = config.layer == memory_layer % config.n_layers
        self.gate = nn.Parameter(torch.zeros(self.n_heads)) if has_memory else None
        self.rotate = rotate
        self.segment_len, self.memory_size, self.top_k = segment_len, memory_size, top_k
        self.xl_cache, self.impl = xl_cache, impl

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
