"""Decoders of the three methods, compiled and exported with their kernels: one graph each."""

from __future__ import annotations

import pytest
import torch

from longatlas import Decoder, DecoderConfig

CONFIG = DecoderConfig(vocab_size=16, d_model=64, n_layers=2, n_heads=4, n_kv_heads=2, ffn_hidden=32)
SPECS = [
    "lightning_attention2",
    "infini_attention:segment_len=8",
    "infini_attention:segment_len=8:update=delta",
    "transformer_xl:segment_len=6:mem_len=9",
    "transformer_xl:segment_len=6:mem_len=9:cache=kv",
]


@pytest.mark.parametrize("spec", SPECS)
def test_one_graph(device: str, spec: str) -> None:
    decoder = Decoder(CONFIG, spec, impl="triton").to(device)
    tokens = torch.arange(20, device=device)[None] % 16
    expected, _ = decoder(tokens)
    expected.square().sum().backward()
    grads = {name: p.grad.clone() for name, p in decoder.named_parameters() if p.grad is not None}
    decoder.zero_grad()
    found, _ = torch.compile(decoder, fullgraph=True, backend="aot_eager")(tokens)
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    for name, p in decoder.named_parameters():
        if name in grads:
            torch.testing.assert_close(p.grad, grads[name], msg=name)
    torch._dynamo.reset()
    exported = torch.export.export(decoder, (tokens,))
    torch.testing.assert_close(exported.module()(tokens)[0], expected)
