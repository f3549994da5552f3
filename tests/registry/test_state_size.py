"""Every formula for what a layer keeps against the state that a decoder returns, at lengths that double."""

from __future__ import annotations

import pytest
import torch

from longatlas import Decoder, DecoderConfig, parse_spec
from longatlas.catalog import load_catalog
from longatlas.combination import call_with_options
from longatlas.decoder.state import tensors
from longatlas.flops import Call

HEADS = DecoderConfig(vocab_size=16, d_model=32, n_layers=2, n_heads=2, ffn_hidden=0)
GROUPED = DecoderConfig(vocab_size=16, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, ffn_hidden=0)
LENGTHS = [*(2**k for k in range(9)), 23]
# Options that make these lengths cross windows, segments and memories.
OPTIONS = {
    "infini_attention": ("segment_len=6",),
    "memorizing_transformer": (
        "segment_len=6:memory_size=20",
        "segment_len=32:memory_size=40:memory_layer=0:xl_cache=false",
    ),
    "parallel_context_windows": ("query_len=8:window=16",),
    "passage_selection": ("query_len=8:chunk_len=8:budget=40",),
    "sliding_window": ("window=7", "window=1"),
    "streaming_llm": ("sinks=3:window=9", "sinks=0:window=16"),
    "transformer_xl": ("segment_len=6:mem_len=20", "segment_len=32:mem_len=7:cache=kv", "mem_len=0"),
    "vanilla_segments": ("segment_len=6",),
}


def built_in() -> list[str]:
    return [m.name for p in load_catalog().plugins if p.distribution == "longatlas" for m in p.methods]


SPECS = [":".join(filter(None, (name, text))) for name in built_in() for text in OPTIONS.get(name, ("",))]


@pytest.mark.parametrize("config", [HEADS, GROUPED], ids=["heads", "grouped"])
@pytest.mark.parametrize("spec", SPECS)
def test_the_formula_is_what_a_layer_keeps(spec: str, config: DecoderConfig) -> None:
    (part,) = parse_spec(spec).parts
    decoder = Decoder(config, spec)
    shape = {"heads": config.n_heads, "head_size": config.head_size, "n_kv_heads": config.n_kv_heads}
    for length in LENGTHS:
        with torch.no_grad():
            _, state = decoder(torch.zeros(1, length, dtype=torch.long))
        for i, layer in enumerate(state.layers):
            kept = sum(tensor.numel() for tensor in tensors(layer) if tensor.is_floating_point())
            call = Call(length, 0, **shape, layer=i, n_layers=config.n_layers)
            assert part.method.state_size is not None, f"{spec} has no formula"
            found = call_with_options(part.method.state_size, call, part.options)
            assert found == kept, f"layer {i} after {length} tokens"
