"""Renames the heads of a decoder, by the convention that mixers follow (see longatlas.slots.Mixer)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from longatlas.decoder.decoder import Decoder
from longatlas.decoder.stack import Block
from longatlas.testing.report import SkipCheck


@torch.no_grad()
def permute_heads(decoder: Decoder, order: Tensor) -> None:
    """Permute the heads in place: H groups of the first dimension of all tensors, and `out`'s inputs.

    Raises SkipCheck for a mixer without a projection called `out`.
    """
    for block in (m for m in decoder.modules() if isinstance(m, Block)):
        if not isinstance(getattr(block.mixer, "out", None), nn.Module):
            raise SkipCheck("the mixer has no projection called 'out', so its heads cannot be told apart")
        for name, tensor in [*block.mixer.named_parameters(), *block.mixer.named_buffers()]:
            _permute(name, tensor, order, decoder.config.n_heads, decoder.config.width)


def _permute(name: str, tensor: Tensor, order: Tensor, heads: int, width: int) -> None:
    if name == "out.weight":
        grouped = tensor.view(tensor.shape[0], heads, -1)
        tensor.copy_(grouped[:, order].reshape(tensor.shape))
    elif not name.startswith("out.") and tensor.ndim and tensor.shape[0] in (heads, width):
        grouped = tensor.view(heads, -1)
        tensor.copy_(grouped[order].reshape(tensor.shape))
