"""What the built-in memories of the Infini paper's Table 1 keep, measured by walking their states."""

from __future__ import annotations

from typing import Any

import torch

from longatlas.decoder.config import DecoderConfig
from longatlas.decoder.decoder import Decoder
from longatlas.decoder.state import tensors
from longatlas.footprint import TABLE, Footprint, Setting

# The options that make a built-in method keep what its row of the table counts.
SPECS = {
    "transformer_xl": "transformer_xl:segment_len={N}:mem_len={N}:cache=kv",
    "memorizing_transformer": "memorizing_transformer:segment_len={N}:memory_size={S}",
    "infini_attention": "infini_attention:segment_len={N}",
}


@torch.no_grad()
def measured_elements(row: Footprint, setting: Setting) -> int | None:
    """Floating-point numbers in the state of a decoder of this setting, after whole segments beyond all memory.

    None for a row without a built-in method. Positions, which are integers, are not counted.
    """
    if row.method not in SPECS:
        return None
    spec = SPECS[row.method].format(N=setting.segment, S=setting.memory)
    config = DecoderConfig(
        vocab_size=16, d_model=setting.d_model, n_layers=setting.layers, n_heads=setting.heads, ffn_hidden=0
    )
    decoder = Decoder(config, spec)
    segments = -(-setting.memory // setting.segment) + 2
    state = None
    for _ in range(segments):
        _, state = decoder(torch.zeros(1, setting.segment, dtype=torch.long), state)
    return sum(tensor.numel() for tensor in tensors(state) if tensor.is_floating_point())


def table(setting: Setting) -> list[dict[str, Any]]:
    """A dict for each row: elements by formula at the paper's setting and at this one, and those measured at this."""
    return [
        {
            "name": row.name,
            "method": row.method,
            "cache": row.cache,
            "context": row.context,
            "paper": row.elements(Setting()),
            "yours": row.elements(setting),
            "measured": measured_elements(row, setting),
        }
        for row in TABLE
    ]
