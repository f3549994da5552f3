"""The peers of the built-in methods compute what the methods do: outputs, states, decode and gradients."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch

from longatlas import UnsupportedError, parse_spec
from longatlas.ops import flex, recurrent_linear_attention
from longatlas.testing.case import make_case
from longatlas.testing.impls import compare_impl

FLEX = (
    "flash_attention",
    "sliding_window:window=40",
    "vanilla_segments",
    "yarn+sliding_window",
    "alibi+flash_attention",
    "transformer_xl",
    "transformer_xl:cache=kv",
    "transformer_xl:clamp_len=20",
    "transformer_xl:same_length=true",
)


@pytest.fixture
def flex_with_gradients(monkeypatch):
    """FlexAttention refuses gradients on a CPU, though its eager form has them."""
    from torch.nn.attention import flex_attention as torch_flex

    from longatlas_plugins.long_term_memory.transformer_xl import flex as mixer

    monkeypatch.setattr(torch_flex, "_validate_device", lambda *tensors: None)
    for module in (flex, mixer):
        monkeypatch.setattr(module, "check_gradient", lambda *tensors: None)


def compare(spec: str, impl: str, dtype: torch.dtype, length: int = 130) -> None:
    compare_impl(make_case(parse_spec(spec)), impl, length, dtype)


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("spec", FLEX)
def test_flex_attention(spec, flex_with_gradients):
    compare(spec, "peer:flex", torch.float64, 65)


@pytest.mark.parametrize("length", [1, 48, 63, 130])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_sdpa_in_segments(length, dtype):
    compare("vanilla_segments", "peer:sdpa", dtype, length)


@pytest.mark.parametrize(
    ("spec", "impl"),
    [("vanilla_segments", "peer:sdpa"), ("sliding_window", "peer:flex"), ("transformer_xl", "peer:flex")],
)
def test_a_sequence_in_pieces_equals_it_whole(spec, impl):
    case = make_case(parse_spec(spec))
    decoder, tokens, state, parts = case.decoder(impl=impl), case.tokens(130), None, []
    with torch.no_grad():
        for piece in torch.split(tokens, [47, 1, 1, 63, 18], 1):
            part, state = decoder(piece, state)
            parts.append(part)
        torch.testing.assert_close(torch.cat(parts, 1), decoder(tokens)[0], rtol=0, atol=1e-10)


def test_flex_attention_without_gradients_on_a_cpu_says_so():
    with pytest.raises(UnsupportedError, match="FlexAttention has no gradient on a CPU"):
        compare("flash_attention", "peer:flex", torch.float32)


def fake_fla(factor: float = 1.0) -> ModuleType:
    """flash-linear-attention's two functions as its documentation has them: g_gamma is log(λ), per head."""

    def simple_gla(q, k, v, g=None, g_gamma=None, scale=None, initial_state=None, output_final_state=False):
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        o, state = recurrent_linear_attention(q, k, v, decay=-g_gamma, scale=scale, initial_state=initial_state)
        return factor * o, state if output_final_state else None

    module = ModuleType("fla.ops.simple_gla")
    module.chunk_simple_gla = module.fused_recurrent_simple_gla = simple_gla
    return module


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_flash_linear_attention(factor, monkeypatch):
    for name in ("fla", "fla.ops"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "fla.ops.simple_gla", fake_fla(factor))
    monkeypatch.delitem(sys.modules, "longatlas_plugins.efficient_attention.lightning_attention2.fla", raising=False)
    if factor == 1.0:
        compare("lightning_attention2", "peer:fla", torch.float32)
    else:
        with pytest.raises(AssertionError, match="impl 'peer:fla'"):
            compare("lightning_attention2", "peer:fla", torch.float32)


def test_every_peer_is_tried_here():
    """A peer that is new on a card gets its test."""
    from longatlas.catalog import load_catalog

    found = {f"{m.name} {name}" for m in load_catalog().methods.values() for name in m.peers}
    tried = {f"{part.method.name} flex" for spec in FLEX for part in parse_spec(spec).parts if part.method.peers}
    assert found == tried | {"vanilla_segments sdpa", "lightning_attention2 fla"}
