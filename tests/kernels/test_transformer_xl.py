"""Transformer-XL's kernels: outputs and all gradients against the fp64 reference."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from longatlas import Decoder, DecoderConfig, LongAtlasError
from longatlas.testing.compare import rms_ratio
from longatlas_plugins.long_term_memory.transformer_xl import chosen_impl, relative_attention

HALF = [torch.bfloat16, torch.float16]


class Inputs(NamedTuple):
    q: Tensor
    k: Tensor
    v: Tensor
    rel_k: Tensor
    content_bias: Tensor
    position_bias: Tensor


def draw(
    device: str,
    queries: int,
    memory: int = 0,
    dtype: torch.dtype = torch.float32,
    *,
    size: int = 16,
    width: int = 16,
    batch: int = 1,
    rows: int | None = None,
    heads: int = 2,
) -> Inputs:
    torch.manual_seed(queries + memory)
    keys = queries + memory
    shapes = [(batch, queries, heads, size), (batch, keys, heads, size), (batch, keys, heads, width)]
    shapes += [(keys if rows is None else rows, heads, size), (heads, size), (heads, size)]
    return Inputs(*(torch.randn(shape).to(device, dtype) for shape in shapes))


def double(given: Inputs) -> Inputs:
    return Inputs(*(x.double() for x in given))


def evidence(given: Inputs, impl: str, **options: Any) -> dict[str, Tensor]:
    leaves = Inputs(*(x.detach().clone().requires_grad_() for x in given))
    o = relative_attention(*leaves, impl=impl, **options)
    weight = torch.randn(o.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(o.device)
    grads = torch.autograd.grad((o.double() * weight).sum(), leaves)
    return {"o": o.detach(), **{f"d{name}": g for name, g in zip(Inputs._fields, grads, strict=True)}}


def plain(given: Inputs) -> Tensor:
    """Products in q's dtype, the softmax in fp32; the positional term gathered by distance."""
    q, k, v, rel_k, content_bias, position_bias = given
    memory = k.shape[1] - q.shape[1]
    distance = torch.arange(q.shape[1])[:, None] + memory - torch.arange(k.shape[1])
    content = torch.einsum("blhd,bkhd->bhlk", q + content_bias, k).float()
    by_row = torch.einsum("blhd,rhd->bhlr", q + position_bias, rel_k).float()
    index = distance.clamp(min=0).expand_as(content).to(q.device)
    scores = (content + by_row.gather(3, index)) * q.shape[3] ** -0.5
    scores = scores.masked_fill((distance < 0).to(q.device), float("-inf"))
    return torch.einsum("bhlk,bkhe->blhe", scores.softmax(-1).to(v.dtype), v)


OPTIONS = [
    {},
    {"window": 20},
    {"window": 1},
    {"clamp_len": 18},
    {"clamp_len": 9, "window": 33},
    {"clamp_len": 1},
    {"clamp_len": 500, "window": 500},
    {"scale": 0.7},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_fp32(device: str, options: dict[str, Any]) -> None:
    given = draw(device, 37, 21, batch=2)
    found, expected = evidence(given, "triton", **options), evidence(double(given), "reference", **options)
    for name in found:
        if float(expected[name].norm()) > 1e-10:
            assert rms_ratio(found[name], expected[name]) < 1e-5, name
        else:  # one key in the window: the weights are constant
            assert float(found[name].abs().max()) < 1e-5, name


@pytest.mark.parametrize(("queries", "memory"), [(1, 0), (1, 15), (15, 0), (16, 16), (63, 0), (65, 3), (16, 63)])
def test_ragged_sizes(device: str, queries: int, memory: int) -> None:
    given = draw(device, queries, memory, size=48, width=32)
    found = relative_attention(*given, impl="triton")
    assert rms_ratio(found, relative_attention(*double(given), impl="reference")) < 1e-5
    with torch.enable_grad():
        q = given.q.clone().requires_grad_()
        assert rms_ratio(relative_attention(q, *given[1:], impl="triton"), found.double()) < 1e-5


@pytest.mark.parametrize("options", [{}, {"clamp_len": 30, "window": 50}], ids=str)
@pytest.mark.parametrize("dtype", HALF, ids=["bf16", "fp16"])
def test_half_precision(device: str, dtype: torch.dtype, options: dict[str, Any]) -> None:
    given = draw(device, 65, 62, dtype, size=48, width=32)
    found, expected = evidence(given, "triton", **options), evidence(double(given), "reference", **options)
    for name in found:
        assert rms_ratio(found[name], expected[name]) < (1e-2 if name.startswith("d") else 5e-3), name


@pytest.mark.parametrize("dtype", HALF, ids=["bf16", "fp16"])
def test_no_worse_than_the_plain_formulation(device: str, dtype: torch.dtype) -> None:
    given = draw(device, 65, 62, dtype, size=48)
    exact = relative_attention(*double(given), impl="reference")
    found = relative_attention(*given, impl="triton")
    assert rms_ratio(found, exact) < 1.5 * rms_ratio(plain(given), exact)


@pytest.mark.parametrize("options", [{}, {"window": 280, "clamp_len": 100}, {"window": 3}], ids=str)
@pytest.mark.parametrize("queries", [1, 3])
def test_decode_splits_the_memory(device: str, queries: int, options: dict[str, Any]) -> None:
    given = draw(device, queries, 700, size=48, width=16, batch=2)
    with torch.no_grad():
        found = relative_attention(*given, impl="triton", **options)
    expected = relative_attention(*double(given), impl="reference", **options)
    assert rms_ratio(found, expected) < 1e-5


def test_decode_reads_a_part_of_a_cache_where_it_lies(device: str) -> None:
    """Two sequences, keys and values side by side, and older tokens before those that are seen."""
    from longatlas_plugins.long_term_memory.transformer_xl.kernels import relative_decode

    given = draw(device, 1, 40, batch=2)
    older = torch.full((2, 7, 64), float("nan"), device=device)
    cache = torch.cat([older, torch.cat([given.k.flatten(2), given.v.flatten(2)], 2)], 1)[:, 7:]
    k, v = (x.unflatten(2, (2, 16)) for x in cache.chunk(2, 2))
    queries = [given.q + bias for bias in (given.content_bias, given.position_bias)]
    found = relative_decode(*queries, k, v, given.rel_k, 0.25, None, None)
    assert rms_ratio(found, relative_attention(*double(given), impl="reference")) < 1e-5


@pytest.mark.parametrize("cut", [1, 16, 33])
def test_segments_with_all_of_the_past_equal_the_whole(device: str, cut: int) -> None:
    q, k, v, *rest = draw(device, 50)
    whole = relative_attention(q, k, v, *rest, impl="triton")
    first = relative_attention(*(x[:, :cut].contiguous() for x in (q, k, v)), *rest, impl="triton")
    second = relative_attention(q[:, cut:].contiguous(), k, v, *rest, impl="triton")
    assert rms_ratio(torch.cat([first, second], 1), whole.double()) < 1e-5


def test_the_future_changes_nothing(device: str) -> None:
    given = draw(device, 50, 14)
    before = relative_attention(*given, impl="triton")
    for t in (17, 48):
        later = [torch.cat([x[:, : 14 + t], x[:, 14 + t :] + 1], 1) for x in (given.k, given.v)]
        after = relative_attention(given.q, *later, *given[3:], impl="triton")
        assert torch.equal(after[:, :t], before[:, :t])
        assert not torch.equal(after[:, t], before[:, t])


@pytest.mark.parametrize(("batch", "queries", "memory"), [(1, 0, 0), (1, 0, 5), (0, 4, 0)])
def test_nothing_to_do(device: str, batch: int, queries: int, memory: int) -> None:
    found = evidence(draw(device, queries, memory, batch=batch), "triton")
    assert found["o"].shape == (batch, queries, 2, 16)
    assert all(not x.any() for x in found.values())


def test_addresses_beyond_32_bits(device: str) -> None:
    """The last of 2^31 elements and more; only the pages that the window reaches are touched."""
    if device == "cuda":
        pytest.skip("make gpu runs whole tensors of this size")
    torch.utils.deterministic.fill_uninitialized_memory = False
    keys, window = 2**25 + 100, 16
    k, v = (torch.empty(1, keys, 1, 64, dtype=torch.bfloat16) for _ in range(2))
    near = draw(device, 1, window - 1, torch.bfloat16, size=64, width=64, heads=1)
    k[:, -window:], v[:, -window:] = near.k, near.v
    with torch.no_grad():
        found = relative_attention(near.q, k, v, *near[3:], window=window, impl="triton")
    assert rms_ratio(found, relative_attention(*double(near), impl="reference")) < 5e-3


class Layer(nn.Module):
    def forward(self, *given: Tensor) -> Tensor:
        return relative_attention(*given, window=20, clamp_len=9, impl="triton")


def test_the_operators_are_what_torch_expects(device: str) -> None:
    given = draw(device, 20, 5)
    q, k, v, rel_k = (x.requires_grad_() for x in given[:4])
    for window, clamp_len in ((None, None), (9, 3)):
        arguments = (q, q, k, v, rel_k, 0.25, window, clamp_len)
        torch.library.opcheck(torch.ops.longatlas.relative_forward.default, arguments)
    few = tuple(x.detach() for x in (q[:, :2].contiguous(), q[:, :2].contiguous(), k, v, rel_k))
    torch.library.opcheck(torch.ops.longatlas.relative_decode.default, (*few, 0.25, None, None))


def test_compile_and_export_see_one_graph(device: str) -> None:
    given, layer = draw(device, 20, 5), Layer()
    expected = layer(*given)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    q = given.q.clone().requires_grad_()
    torch.testing.assert_close(compiled(q, *given[1:]), expected)
    (grad,) = torch.autograd.grad(compiled(q, *given[1:]).sum(), [q])
    torch.testing.assert_close(grad, torch.autograd.grad(layer(q, *given[1:]).sum(), [q])[0])
    exported = torch.export.export(layer, given)
    torch.testing.assert_close(exported.module()(*given), expected)


@pytest.mark.parametrize("cache", ["hidden", "kv"])
def test_a_decoder_decodes_as_it_prefills(device: str, cache: str) -> None:
    config = DecoderConfig(vocab_size=16, d_model=64, n_layers=2, n_heads=4, n_kv_heads=2, ffn_hidden=0)
    spec = f"transformer_xl:segment_len=6:mem_len=9:cache={cache}"
    torch.manual_seed(0)
    exact = Decoder(config, spec, impl="reference").to(device).double()
    decoder = Decoder(config, spec, impl="triton").to(device)
    decoder.load_state_dict(exact.state_dict())
    tokens = torch.arange(20, device=device)[None] * 7 % 16
    expected, _ = exact(tokens)
    with torch.no_grad():
        assert rms_ratio(decoder(tokens)[0], expected) < 1e-5
        state, outputs = None, []
        for token in tokens.split(1, 1):
            logits, state = decoder(token, state)
            outputs.append(logits)
        assert rms_ratio(torch.cat(outputs, 1), expected) < 1e-5


def test_kept_rows_follow_the_weights(device: str) -> None:
    config = DecoderConfig(vocab_size=16, d_model=32, n_layers=1, n_heads=2, ffn_hidden=0)
    decoder = Decoder(config, "transformer_xl:segment_len=6:mem_len=9:cache=kv", impl="triton").to(device)
    with torch.no_grad():
        _, state = decoder(torch.zeros(1, 5, dtype=torch.long, device=device))
        token = torch.ones(1, 1, dtype=torch.long, device=device)
        before, _ = decoder(token, state)
        for parameter in decoder.parameters():
            parameter.mul_(1.5)
        after, _ = decoder(token, state)
    assert not torch.allclose(before, after)
    fresh = Decoder(config, "transformer_xl:segment_len=6:mem_len=9:cache=kv", impl="triton").to(device)
    fresh.load_state_dict(decoder.state_dict())
    with torch.no_grad():
        assert torch.equal(fresh(token, state)[0], after)


def test_checkpointing_and_autocast(device: str) -> None:
    given, layer = draw(device, 20, 5), Layer()
    grads = []
    for call in (layer, lambda *x: checkpoint(layer, *x, use_reentrant=False)):
        q = given.q.clone().requires_grad_()
        grads.append(torch.autograd.grad(call(q, *given[1:]).square().sum(), [q])[0])
    assert torch.equal(*grads)
    expected = layer(*given)
    with torch.autocast(device, dtype=torch.bfloat16):
        assert torch.equal(layer(*given), expected)


def test_a_step_of_training_with_half_precision_weights(device: str) -> None:
    config = DecoderConfig(vocab_size=16, d_model=32, n_layers=1, n_heads=2, ffn_hidden=0)
    decoder = Decoder(config, "transformer_xl:segment_len=6:mem_len=9", impl="triton").to(device, torch.bfloat16)
    tokens = torch.arange(21, device=device)[None] % 16
    logits, _ = decoder(tokens[:, :-1])
    functional.cross_entropy(logits.flatten(0, 1).float(), tokens[0, 1:]).backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in decoder.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("q", lambda x: x.transpose(1, 2).contiguous().transpose(1, 2), "q has shape .* and strides .* contiguous"),
        ("k", lambda x: x[:, :1].expand_as(x), "k has shape .* k.contiguous"),
        ("v", lambda x: torch.zeros(1, 13, 2, 20, device=x.device), "E of v is 20; .* multiples of 16 up to 256"),
        ("v", lambda x: x.bfloat16(), "v has dtype torch.bfloat16; it must be q's"),
        ("rel_k", lambda x: x[:4], "rel_k has 4 rows"),
        ("rel_k", lambda x: x.tolist(), "rel_k is a list; it must be a torch.Tensor"),
        ("position_bias", lambda x: x[:1], "position_bias has shape .* must be .H, D."),
        ("k", lambda x: x.to("meta"), "k is on meta, q on .*; move them to one device"),
    ],
)
def test_bad_input(device: str, name: str, make: Any, words: str) -> None:
    given = draw(device, 8, 5)._asdict()
    given[name] = make(given[name])
    with pytest.raises(ValueError, match=words):
        relative_attention(**given, impl="triton")


def test_fp64_has_no_kernel_and_auto_knows(device: str) -> None:
    given = draw(device, 8)
    with pytest.raises(LongAtlasError, match=r"q has dtype torch.float64; impl='triton' takes"):
        relative_attention(*double(given), impl="triton")
    assert chosen_impl(*double(given)[:3]) == "torch"
    assert chosen_impl(*given[:3]) == ("triton" if device == "cuda" else "torch")
