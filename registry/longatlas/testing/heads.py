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

    A context's own weights follow the convention too.

    Raises SkipCheck for a mixer without a projection called `out`.
    """
    mixers = [m.mixer for m in decoder.modules() if isinstance(m, Block)]
    if not all(isinstance(getattr(mixer, "out", None), nn.Module) for mixer in mixers):
        raise SkipCheck("the mixer has no projection called 'out', so its heads cannot be told apart")
    contexts = [m for name, m in decoder.named_children() if name.startswith("context_module")]
    for module in (*mixers, *contexts):
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            _permute(name, tensor, order, decoder.config.n_heads, decoder.config.width)


def _permute(name: str, tensor: Tensor, order: Tensor, heads: int, width: int) -> None:
    if name == "out.weight":
        grouped = tensor.view(tensor.shape[0], heads, -1)
        tensor.copy_(grouped[:, order].reshape(tensor.shape))
    elif not name.startswith("out.") and tensor.ndim and tensor.shape[0] in (heads, width):
        grouped = tensor.view(heads, -1)
        tensor.copy_(grouped[order].reshape(tensor.shape))
