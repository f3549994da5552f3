"""The mixer of Infini-attention (arXiv:2404.07143): projections, rotary positions, gate and memory."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from longatlas import DecoderConfig, Here, ProjectedMixer
from longatlas.ops.segments import check_segments
from longatlas.slots import Rotate
from longatlas_plugins.long_term_memory.infini_attention.operation import infini_attention
from longatlas_plugins.long_term_memory.infini_attention.state import Carried, InfiniState, empty_state


class InfiniMixer(ProjectedMixer):
    """qkv > Infini-attention > out.

    gate  β [H], one scalar per head, 0 at the start: half memory, half local attention
    """

    def __init__(
        self,
        config: DecoderConfig,
        *,
        segment_len: int,
        update: str,
        first_segment: str,
        rotate: Rotate | None,
        impl: str,
    ) -> None:
        super().__init__(config)
        self.gate = nn.Parameter(torch.zeros(self.n_heads))
        self.rotate = rotate
        self.segment_len, self.update, self.first_segment = segment_len, update, first_segment
        self.impl = impl

    def mix(self, q: Tensor, k: Tensor, v: Tensor, state: Carried | None, here: Here) -> tuple[Tensor, Carried]:
        """q [B, T, H, D]; k, v [B, T, Hkv, D] before rotation -> o [B, T, H, D]"""
        check_segments(here, self.segment_len, "infini_attention", has_state=state is not None)
        before = empty_state(k, v)[:-1] if state is None else state
        o, after = infini_attention(
            q,
            k,
            v,
            self.gate,
            segment_len=self.segment_len,
            rotate=here.rotation(self.rotate),
            update=self.update,
            first_segment=self.first_segment,
            initial_state=InfiniState(*before, here.start),
            output_final_state=True,
            impl=self.impl,
        )
        return o, Carried(*cast(InfiniState, after)[:-1])
