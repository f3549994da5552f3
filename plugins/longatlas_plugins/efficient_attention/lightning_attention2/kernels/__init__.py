"""Lightning Attention-2 in Triton (arXiv:2401.04658): one scan gives the output and every gradient."""

from longatlas_plugins.efficient_attention.lightning_attention2.kernels.autograd import (
    lightning_attention_triton,
    lightning_decode_triton,
)

__all__ = ["lightning_attention_triton", "lightning_decode_triton"]
