"""Operations shared by methods, public for plugin authors. Tensors are [B, T, H, D]."""

from longatlas.ops.blockwise import blockwise_attention, causal
from longatlas.ops.flex import flex_attention
from longatlas.ops.linear import chunked_linear_attention
from longatlas.ops.merging import merge_attention
from longatlas.ops.reference import dense_attention, recurrent_linear_attention
from longatlas.ops.rotary import frequencies_of, rotary_embedding, rotary_frequencies

__all__ = [
    "blockwise_attention",
    "causal",
    "chunked_linear_attention",
    "dense_attention",
    "flex_attention",
    "frequencies_of",
    "merge_attention",
    "recurrent_linear_attention",
    "rotary_embedding",
    "rotary_frequencies",
]
