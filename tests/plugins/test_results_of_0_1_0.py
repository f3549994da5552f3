"""The built-in methods compute what they computed in version 0.1.0, before their contract changed: fp64, to 1e-12.

`results_0_1_0.json` was written by that version with `results_of(spec, "auto")` below. Weights are drawn by the names
of parameters, so that the order in which a mixer makes its parts does not matter.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch

from longatlas import Decoder, DecoderConfig, parse_spec
from longatlas.decoder.state import tensors

STORED = json.loads(Path(__file__).with_name("results_0_1_0.json").read_text())
PIECES = (1, 30, 17, 65, 37)  # 150 tokens; borders of segments lie inside and between them
PLACES = (0, 1, 47, 48, 63, 97, 149)


def results_of(spec: str, impl: str) -> dict[str, Any]:
    """Logits in one call and in pieces, the size of the state, the loss and the gradient of every parameter."""
    config = DecoderConfig(vocab_size=31, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, train_length=64)
    decoder = Decoder(config, spec, impl=impl).double()
    host = Decoder(config, parse_spec(spec).host).double()
    with torch.no_grad():
        for name, parameter in host.named_parameters():
            noise = torch.randn(
                parameter.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(zlib.crc32(name.encode()))
            )
            is_constant = float(parameter.std()) == 0 if parameter.numel() > 1 else True
            parameter.copy_((parameter if is_constant else 0) + 0.2 * noise)
    decoder.load_state_dict(host.state_dict())
    tokens = torch.randint(31, (2, 150), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        whole, state = decoder(tokens)
        pieces, cut = [], None
        for part in tokens.split(PIECES, 1):
            logits, cut = decoder(part, cut)
            pieces.append(logits)
    floating = [x for x in tensors(state) if x.is_floating_point()]
    found: dict[str, Any] = {
        "whole": whole[:, [p for p in PLACES if p < whole.shape[1]], :4].tolist(),
        "pieces": torch.cat(pieces, 1)[:, [-1, -30, -60], :4].tolist(),
        "state": sum(float(x.double().square().sum()) for x in floating),
    }
    if decoder.context is None:
        loss = decoder.loss(tokens)
        loss.backward()
        found["loss"] = float(loss.detach())
        found["gradients"] = {
            name: float(p.grad.square().sum().sqrt()) for name, p in decoder.named_parameters() if p.grad is not None
        }
    return found


@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize("spec", STORED)
def test_a_method_computes_what_it_did(spec: str, impl: str) -> None:
    found, stored = results_of(spec, impl), STORED[spec]
    near = 1e-12 if impl == "auto" else 1e-10  # the reference sums in another order
    for name in ("whole", "pieces"):
        torch.testing.assert_close(_fp64(found[name]), _fp64(stored[name]), rtol=near, atol=near)
    for name in ("state", "loss"):
        assert found.get(name, 0.0) == pytest.approx(stored.get(name, 0.0), rel=near)
    assert found.get("gradients", {}) == pytest.approx(stored.get("gradients", {}), rel=10 * near, abs=near)


def _fp64(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)
