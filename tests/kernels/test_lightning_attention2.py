"""Lightning Attention-2's kernels: outputs, states and all gradients against the fp64 reference."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from longatlas import LongAtlasError
from longatlas_plugins.efficient_attention.lightning_attention2 import (
    chosen_impl,
    lightning_attention,
    lightning_decode_,
)

HALF = [torch.bfloat16, torch.float16]
LENGTHS = [1, 15, 63, 65, 127]
RATES = [0.0, 0.05, 8.0]


class Inputs(NamedTuple):
    q: Tensor
    k: Tensor
    v: Tensor
    state: Tensor
    decay: Tensor


def draw(
    device: str,
    length: int,
    dtype: torch.dtype = torch.float32,
    size: int = 16,
    width: int = 16,
    batch: int = 1,
    states: int | None = None,
) -> Inputs:
    torch.manual_seed(length)
    heads = len(RATES)
    q, k = (torch.randn(batch, length, heads, size).to(device, dtype) for _ in range(2))
    v = torch.randn(batch, length, heads, width).to(device, dtype)
    state = torch.randn(states or batch, heads, size, width, device=device)
    return Inputs(q, k, v, state, torch.tensor(RATES, device=device))


def double(given: Inputs) -> Inputs:
    return Inputs(*(x.double() for x in given))


def evidence(given: Inputs, impl: str, **options: Any) -> dict[str, Tensor]:
    """Output, final state and the gradients of a loss through both."""
    leaves = {name: getattr(given, name).detach().clone().requires_grad_() for name in ("q", "k", "v", "state")}
    o, final = lightning_attention(
        leaves["q"],
        leaves["k"],
        leaves["v"],
        given.decay,
        scale=0.3,
        initial_state=leaves["state"],
        output_final_state=True,
        impl=impl,
        **options,
    )
    assert final is not None
    weights = torch.Generator().manual_seed(7)
    loss = sum(
        (x.double() * torch.randn(x.shape, generator=weights, dtype=torch.float64).to(x.device)).sum()
        for x in (o, final)
    )
    grads = torch.autograd.grad(loss, list(leaves.values()))
    return {"o": o, "final": final, **{f"d{name}": g for name, g in zip(leaves, grads, strict=True)}}


def rms_ratio(found: Tensor, expected: Tensor) -> float:
    return float((found.detach().double() - expected.detach()).norm() / expected.detach().norm().clamp(min=1e-30))


def plain(given: Inputs, scale: float = 0.3) -> Tensor:
    """The formulation in q's dtype with products as tensors, decays in fp32; no state."""
    places = torch.arange(given.q.shape[1], device=given.q.device)
    distance = places[:, None] - places
    weights = torch.exp(-given.decay[:, None, None] * distance.clamp(min=0)) * (distance >= 0)
    scores = torch.einsum("bthd,bshd->bhts", given.q, given.k).float() * weights * scale
    return torch.einsum("bhts,bshe->bthe", scores.to(given.v.dtype), given.v)


@pytest.mark.parametrize("schedule", ["fused", "superchunks"])
@pytest.mark.parametrize("length", [*LENGTHS, 600])
def test_fp32(device: str, length: int, schedule: str) -> None:
    given = draw(device, length)
    found, expected = evidence(given, "triton", schedule=schedule), evidence(double(given), "reference")
    assert {name: rms_ratio(found[name], expected[name]) < 1e-5 for name in found} == dict.fromkeys(found, True)


@pytest.mark.parametrize("dtype", HALF, ids=["bf16", "fp16"])
@pytest.mark.parametrize(("length", "size", "width"), [(65, 48, 16), (127, 16, 48), (63, 96, 80), (1, 16, 16)])
def test_half_precision(device: str, dtype: torch.dtype, length: int, size: int, width: int) -> None:
    given = draw(device, length, dtype, size, width)
    found, expected = evidence(given, "triton"), evidence(double(given), "reference")
    for name in found:
        limit = 1e-2 if name.startswith("d") else 5e-3
        assert rms_ratio(found[name], expected[name]) < limit, name


@pytest.mark.parametrize("dtype", HALF, ids=["bf16", "fp16"])
def test_no_worse_than_the_plain_formulation(device: str, dtype: torch.dtype) -> None:
    given = draw(device, 127, dtype, 48, 48)
    exact, _ = lightning_attention(*double(given)[:3], given.decay.double(), scale=0.3, impl="reference")
    found, _ = lightning_attention(*given[:3], given.decay, scale=0.3, impl="triton")
    assert rms_ratio(found, exact) < 1.5 * rms_ratio(plain(given), exact)


def test_fp16_does_not_overflow_within(device: str) -> None:
    """S and the scores pass 65504 long before an output does."""
    given = draw(device, 127, torch.float16)
    loud = given._replace(q=given.q * 0.01, k=given.k.abs() * 600, v=given.v.abs() * 600)
    found, final = lightning_attention(*loud[:3], loud.decay, scale=0.001, output_final_state=True, impl="triton")
    exact, _ = lightning_attention(*double(loud)[:3], loud.decay.double(), scale=0.001, impl="reference")
    assert final is not None
    assert float(final.max()) > 1e6
    assert rms_ratio(found, exact) < 5e-3


@pytest.mark.parametrize("schedule", ["fused", "superchunks"])
def test_packed_sequences(device: str, schedule: str) -> None:
    """Empty ones among them; each is what it would be alone."""
    bounds = torch.tensor([0, 1, 270, 270, 333, 333], device=device)
    given = draw(device, 333, states=5)
    found = evidence(given, "triton", cu_seqlens=bounds, schedule=schedule)
    expected = evidence(double(given), "reference", cu_seqlens=bounds)
    assert {name: rms_ratio(found[name], expected[name]) < 1e-5 for name in found} == dict.fromkeys(found, True)


@pytest.mark.parametrize("cut", [1, 64, 100, 129])
def test_cut_and_carried_equals_whole(device: str, cut: int) -> None:
    q, k, v, state, decay = draw(device, 130, batch=2)
    whole = lightning_attention(q, k, v, decay, initial_state=state, output_final_state=True, impl="triton")
    parts = []
    for x in (slice(0, cut), slice(cut, 130)):
        some = (t[:, x].contiguous() for t in (q, k, v))
        o, state = lightning_attention(*some, decay, initial_state=state, output_final_state=True, impl="triton")
        parts.append(o)
    assert rms_ratio(torch.cat(parts, 1), whole[0].double()) < 1e-5
    assert rms_ratio(state, whole[1].double()) < 1e-5


def test_token_by_token_equals_whole(device: str) -> None:
    given = draw(device, 20, batch=2, size=48, width=32)
    whole, final = lightning_attention(*given[:3], given.decay, initial_state=given.state, output_final_state=True)
    state, kept = given.state, given.state.clone()
    for t in range(20):
        token = [x[:, t : t + 1].contiguous() for x in given[:3]]
        o, state = lightning_attention(*token, given.decay, initial_state=state, output_final_state=True, impl="triton")
        in_place = lightning_decode_(*token, given.decay, kept, impl="triton")
        assert torch.equal(in_place, o)
        assert rms_ratio(o, whole[:, t : t + 1].double()) < 1e-5
    assert torch.equal(kept, state)
    assert rms_ratio(state, final.double()) < 1e-5


@pytest.mark.parametrize("schedule", ["fused", "superchunks"])
def test_the_future_changes_nothing(device: str, schedule: str) -> None:
    q, k, v, _, decay = draw(device, 300)
    before, _ = lightning_attention(q, k, v, decay, impl="triton", schedule=schedule)
    for t in (63, 256):
        q_new, k_new, v_new = (torch.cat([x[:, :t], x[:, t:] + 1], 1) for x in (q, k, v))
        after, _ = lightning_attention(q_new, k_new, v_new, decay, impl="triton", schedule=schedule)
        assert torch.equal(after[:, :t], before[:, :t])
        assert not torch.equal(after[:, t], before[:, t])


@pytest.mark.parametrize(("batch", "length"), [(2, 0), (0, 5)])
def test_nothing_to_do(device: str, batch: int, length: int) -> None:
    q, k, v, state, decay = (x.requires_grad_(x.ndim == 4) for x in draw(device, length, batch=batch, states=batch))
    o, final = lightning_attention(q, k, v, decay, initial_state=state, output_final_state=True, impl="triton")
    assert o.shape == v.shape
    assert torch.equal(final, state)
    (o.sum() + 2 * final.sum()).backward()
    assert torch.equal(state.grad, torch.full_like(state, 2.0))


def test_addresses_beyond_32_bits(device: str) -> None:
    """The last of 2^31 elements and more; only its pages are touched."""
    if device == "cuda":
        pytest.skip("make gpu runs whole tensors of this size")
    torch.utils.deterministic.fill_uninitialized_memory = False
    from longatlas_plugins.efficient_attention.lightning_attention2.kernels.pieces import Pieces
    from longatlas_plugins.efficient_attention.lightning_attention2.kernels.scan import scan
    from longatlas_plugins.efficient_attention.lightning_attention2.kernels.tiles import Tiles

    tokens, length = 2**27 + 20, 20
    x, out = (torch.empty(tokens, 1, 16, dtype=torch.bfloat16) for _ in range(2))
    x[-length:] = draw(device, length).q[0, :, :1].bfloat16()
    pieces = Pieces(torch.tensor([[tokens - length, tokens]]), torch.tensor([0, 1]))
    scan(x, x, x, torch.tensor([0.1]), pieces, Tiles(16, 16, 16, 4, 1), scale=1.0, out=out)
    last = x[None, -length:].double()
    expected, _ = lightning_attention(last, last, last, torch.tensor([0.1]).double(), impl="reference")
    assert rms_ratio(out[None, -length:], expected) < 1e-2


class Layer(nn.Module):
    def __init__(self, decay: Tensor) -> None:
        super().__init__()
        self.register_buffer("decay", decay)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor | None]:
        return lightning_attention(q, k, v, self.decay, initial_state=state, output_final_state=True, impl="triton")


def test_the_operators_are_what_torch_expects() -> None:
    """Schema, fake kernel, autograd and ahead-of-time dispatch."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    given = draw(device, 20)
    q, k, v, state = (x.requires_grad_() for x in given[:4])
    operator = torch.ops.longatlas.lightning_forward.default
    for before, bounds in ((None, None), (state, torch.tensor([0, 20], device=device))):
        torch.library.opcheck(operator, (q, k, v, given.decay, before, bounds, 0.5, "fused"))


def test_compile_and_export_see_one_graph(device: str) -> None:
    given = draw(device, 20)
    layer = Layer(given.decay)
    expected = layer(*given[:4])
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    q = given.q.clone().requires_grad_()
    o, state = compiled(q, *given[1:4])
    assert torch.equal(o, expected[0])
    assert torch.equal(state, expected[1])
    (grad,) = torch.autograd.grad(o.sum(), [q])
    exact = given.q.clone().requires_grad_()
    assert torch.equal(grad, torch.autograd.grad(layer(exact, *given[1:4])[0].sum(), [exact])[0])
    exported = torch.export.export(layer, given[:4])
    assert torch.equal(exported.module()(*given[:4])[0], expected[0])


def test_checkpointing_and_autocast(device: str) -> None:
    given = draw(device, 40)
    layer = Layer(given.decay)
    grads = []
    for call in (
        lambda q: layer(q, *given[1:4])[0],
        lambda q: checkpoint(layer, q, *given[1:4], use_reentrant=False)[0],
    ):
        q = given.q.clone().requires_grad_()
        grads.append(torch.autograd.grad(call(q).square().sum(), [q])[0])
    assert torch.equal(*grads)
    with torch.autocast(device, dtype=torch.bfloat16):
        assert torch.equal(layer(*given[:4])[0], layer(*given[:4])[0].float())
        found = layer(*given[:4])
    assert all(torch.equal(a, b) for a, b in zip(found, layer(*given[:4]), strict=True))


def changed(given: Inputs, **arguments: Any) -> dict[str, Any]:
    q, k, v, state, decay = given
    return {"q": q, "k": k, "v": v, "decay": decay, "initial_state": state, "impl": "triton", **arguments}


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("q", lambda x: x.transpose(1, 2).contiguous().transpose(1, 2), "q has shape .* and strides .* contiguous"),
        ("k", lambda x: x[:, :1].expand_as(x), "k has shape .* and strides .* k.contiguous"),
        ("v", lambda x: torch.zeros(1, 8, 3, 20, device=x.device), "E of v is 20; .* multiples of 16 up to 256"),
        ("initial_state", lambda x: x.mT, "initial_state has shape .* contiguous"),
        ("initial_state", lambda x: x.bfloat16(), "initial_state has dtype torch.bfloat16.*float32"),
        ("decay", lambda x: x - 1, "decay is .*; every rate must be finite and at least 0"),
        ("decay", lambda x: x.clone().requires_grad_(), "decay requires a gradient.*impl='torch'"),
        ("decay", lambda x: x.tolist(), "decay is a list; it must be a torch.Tensor"),
        ("schedule", lambda _: "quick", "schedule is 'quick'; it must be one of auto, fused, superchunks"),
        ("cu_seqlens", lambda _: torch.tensor([0, 5, 3, 8]), "cu_seqlens is .* ascend"),
        ("cu_seqlens", lambda _: torch.tensor([0, 5, 9]), "cu_seqlens is .* number of tokens, T = 8"),
    ],
)
def test_bad_input(device: str, name: str, make: Any, words: str) -> None:
    given = draw(device, 8, states=3 if name == "cu_seqlens" else 1)
    states = given.state[:2].contiguous() if name == "cu_seqlens" and "T = 8" in words else given.state
    given = given._replace(state=states)
    arguments = changed(given)
    arguments[name] = make(arguments.get(name))
    if name == "v":
        arguments["initial_state"] = None
    with pytest.raises(ValueError, match=words):
        lightning_attention(**arguments)


def test_fp64_has_no_kernel(device: str) -> None:
    with pytest.raises(LongAtlasError, match=r"q has dtype torch.float64; impl='triton' takes"):
        lightning_attention(**changed(double(draw(device, 8))))


def test_auto_tells_what_it_chose(device: str) -> None:
    given = draw(device, 8)
    expected = "triton" if device == "cuda" else "torch"
    assert chosen_impl(*given[:3], given.decay) == expected
    assert chosen_impl(*double(given)[:3], given.decay.double()) == "torch"
