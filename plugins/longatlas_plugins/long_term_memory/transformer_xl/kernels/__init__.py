"""Relative attention in Triton (arXiv:1901.02860): the L x K positional term is made tile by tile, never in memory."""

from longatlas_plugins.long_term_memory.transformer_xl.kernels.autograd import (
    relative_attention_triton,
    relative_decode,
)

__all__ = ["relative_attention_triton", "relative_decode"]
