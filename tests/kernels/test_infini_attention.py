"""Infini-attention's kernels: outputs, states and all gradients against the fp64 reference."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from longatlas import LongAtlasError
from longatlas.ops import rotary_embedding
from longatlas.testing.compare import rms_ratio
from longatlas_plugins.long_term_memory.infini_attention import InfiniState, chosen_impl, infini_attention

HALF = [torch.bfloat16, torch.float16]


class Inputs(NamedTuple):
    q: Tensor
    k: Tensor
    v: Tensor
    gate: Tensor
    memory: Tensor
    norm: Tensor
    begun_k: Tensor
    begun_v: Tensor


def draw(
    device: str,
    length: int,
    dtype: torch.dtype = torch.float32,
    *,
    size: int = 16,
    width: int = 16,
    batch: int = 1,
    heads: int = 4,
    kv_heads: int = 2,
    begun: int = 0,
) -> Inputs:
    torch.manual_seed(length + begun)
    q = torch.randn(batch, length, heads, size).to(device, dtype)
    k = torch.randn(batch, length, kv_heads, size).to(device, dtype)
    v = torch.randn(batch, length, kv_heads, width).to(device, dtype)
    gate = torch.randn(heads, device=device)
    memory = torch.randn(batch, kv_heads, size, width, device=device)
    norm = torch.rand(batch, kv_heads, size, device=device) * 5 + 1
    begun_k = torch.randn(batch, begun, kv_heads, size).to(device, dtype)
    begun_v = torch.randn(batch, begun, kv_heads, width).to(device, dtype)
    return Inputs(q, k, v, gate, memory, norm, begun_k, begun_v)


def double(given: Inputs) -> Inputs:
    return Inputs(*(x.double() for x in given))


def run(given: Inputs, impl: str, position: int | None = None, **options: Any) -> tuple[Tensor, InfiniState]:
    """From `position` on; None = from the start, without a state."""
    state = None if position is None else InfiniState(*given[4:], position)
    options = {"segment_len": 20, "rotate": rotary_embedding(given.q.shape[3]), **options}
    o, after = infini_attention(*given[:4], initial_state=state, output_final_state=True, impl=impl, **options)
    assert after is not None
    return o, after


def evidence(given: Inputs, impl: str, position: int | None = None, **options: Any) -> dict[str, Tensor]:
    leaves = Inputs(*(x.detach().clone().requires_grad_() for x in given))
    o, after = run(leaves, impl, position, **options)
    found = {"o": o, "memory": after.memory, "norm": after.norm, "k": after.k, "v": after.v}
    weights = torch.Generator().manual_seed(7)
    loss = sum(
        (x.double() * torch.randn(x.shape, generator=weights, dtype=torch.float64).to(x.device)).sum()
        for x in found.values()
    )
    used = leaves[:4] if position is None else leaves
    grads = [
        torch.zeros_like(x) if g is None else g
        for x, g in zip(used, torch.autograd.grad(loss, used, allow_unused=True), strict=True)
    ]
    return {name: x.detach() for name, x in found.items()} | {
        f"d{name}": g for name, g in zip(Inputs._fields, grads, strict=False)
    }


def check(given: Inputs, forward: float, backward: float, position: int | None = None, **options: Any) -> None:
    found = evidence(given, "triton", position, **options)
    expected = evidence(double(given), "reference", position, **options)
    for name in found:
        if not expected[name].any():
            assert not found[name].numel() or float(found[name].abs().max()) < 1e-5, name
        else:
            assert rms_ratio(found[name], expected[name]) < (backward if name.startswith("d") else forward), name


@pytest.mark.parametrize("update", ["linear", "delta"])
@pytest.mark.parametrize(
    ("length", "position"),
    [(1, None), (15, None), (63, None), (65, 0), (33, 45), (1, 39), (20, 40), (15, 1005)],
)
def test_fp32(device: str, length: int, position: int | None, update: str) -> None:
    check(draw(device, length, begun=(position or 0) % 20), 1e-5, 1e-5, position, update=update)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"first_segment": "gated"}, {}),
        ({"rotate": None}, {"width": 48}),
        ({"segment_len": 7}, {"batch": 2}),
        ({"segment_len": 3, "update": "delta"}, {}),
        ({"segment_len": 64}, {"kv_heads": 1}),
        ({"segment_len": 33, "update": "delta"}, {"kv_heads": 4, "size": 48}),
    ],
    ids=str,
)
def test_options_and_shapes(device: str, options: dict[str, Any], shape: dict[str, int]) -> None:
    check(draw(device, 40, **shape), 1e-5, 1e-5, **options)


@pytest.mark.parametrize("update", ["linear", "delta"])
@pytest.mark.parametrize("dtype", HALF, ids=["bf16", "fp16"])
def test_half_precision(device: str, dtype: torch.dtype, update: str) -> None:
    check(draw(device, 50, dtype, size=48, width=32, begun=5), 5e-3, 1e-2, 25, update=update)


def plain(given: Inputs, segment_len: int) -> Tensor:
    """Linear update, no rotation, from the start: products in q's dtype, softmax and memory in fp32."""
    q, k, v, gate = given[:4]
    groups = q.shape[2] // k.shape[2]
    share = torch.sigmoid(gate)[:, None, None]
    memory, norm, outputs = torch.zeros_like(given.memory), torch.zeros_like(given.norm), []
    for start in range(0, q.shape[1], segment_len):
        some_q, some_k, some_v = (x[:, start : start + segment_len].transpose(1, 2) for x in (q, k, v))
        keys, values = (x.repeat_interleave(groups, 1) for x in (some_k, some_v))
        scores = (some_q @ keys.mT).float() * q.shape[3] ** -0.5
        scores = scores.masked_fill(~torch.ones_like(scores, dtype=torch.bool).tril(), float("-inf"))
        local = scores.softmax(-1).to(v.dtype) @ values
        features = (torch.nn.functional.elu(some_q.float()) + 1).to(q.dtype)
        if start:
            read = (features @ memory.to(q.dtype).repeat_interleave(groups, 1)).float()
            read /= features.float() @ norm.repeat_interleave(groups, 1)[..., None]
            local = share * read + (1 - share) * local.float()
        outputs.append(local.to(v.dtype).transpose(1, 2))
        written = (torch.nn.functional.elu(some_k.float()) + 1).to(k.dtype)
        memory = memory + (written.mT @ some_v).float()
        norm = norm + written.float().sum(2)
    return torch.cat(outputs, 1)


@pytest.mark.parametrize("dtype", HALF, ids=["bf16", "fp16"])
def test_no_worse_than_the_plain_formulation(device: str, dtype: torch.dtype) -> None:
    given = draw(device, 100, dtype, size=48)
    exact, _ = run(double(given), "reference", rotate=None)
    found, _ = run(given, "triton", rotate=None)
    assert rms_ratio(found, exact) < 1.5 * rms_ratio(plain(given, 20), exact)


@pytest.mark.parametrize("update", ["linear", "delta"])
@pytest.mark.parametrize("pieces", [(1,) * 45, (7, 13, 25), (20, 20, 5), (40, 5), (3, 42)], ids=len)
def test_pieces_equal_the_whole(device: str, pieces: tuple[int, ...], update: str) -> None:
    """Decode across segment borders among them; a prompt of whole segments writes each once."""
    given = draw(device, 45, batch=2)
    whole, final = run(given, "triton", update=update)
    state, outputs, start = None, [], 0
    options = {"segment_len": 20, "rotate": rotary_embedding(16), "update": update}
    with torch.no_grad():
        for tokens in pieces:
            some = (x[:, start : start + tokens].contiguous() for x in given[:3])
            o, state = infini_attention(
                *some, given.gate, initial_state=state, output_final_state=True, impl="triton", **options
            )
            outputs.append(o)
            start += tokens
    assert rms_ratio(torch.cat(outputs, 1), whole.double()) < 1e-5
    assert state.position == final.position == 45
    for name in ("memory", "norm", "k", "v"):
        assert rms_ratio(getattr(state, name), getattr(final, name).double()) < 1e-5, name


def test_the_future_changes_nothing(device: str) -> None:
    given = draw(device, 65)
    before, _ = run(given, "triton")
    for t in (17, 40, 64):
        changed = [torch.cat([x[:, :t], x[:, t:] + 1], 1) for x in given[:3]]
        after, _ = run(given._replace(q=changed[0], k=changed[1], v=changed[2]), "triton")
        assert torch.equal(after[:, :t], before[:, :t])
        assert not torch.equal(after[:, t], before[:, t])


@pytest.mark.parametrize(("batch", "length"), [(2, 0), (0, 5)])
def test_nothing_to_do(device: str, batch: int, length: int) -> None:
    given = draw(device, length, batch=batch, begun=5)
    o, after = run(given, "triton", 25)
    assert o.shape == (batch, length, 4, 16)
    assert torch.equal(after.memory, given.memory)
    assert after.k.shape[1] == 5 + length


@pytest.mark.parametrize("update", ["linear", "delta"])
def test_a_normaliser_that_underflows(device: str, update: str) -> None:
    given = draw(device, 25)._replace(norm=torch.zeros(1, 2, 16, device=device))
    check(given, 1e-5, 1e-5, 20, update=update)


def test_addresses_beyond_32_bits(device: str) -> None:
    """One token after 2^27 others of its segment would touch them all: the memory's sums of the last segment do not."""
    if device == "cuda":
        pytest.skip("make gpu runs whole tensors of this size")
    from longatlas_plugins.long_term_memory.infini_attention.kernels.layout import Layout
    from longatlas_plugins.long_term_memory.infini_attention.kernels.memory import segment_sums

    torch.utils.deterministic.fill_uninitialized_memory = False
    tokens, length = 2**27 + 20, 20
    x = torch.empty(1, tokens, 1, 16, dtype=torch.bfloat16)
    x[:, -length:] = torch.randn(1, length, 1, 16)
    # As if the tokens before had been begun before the sequence: its one segment is the last 20 tokens.
    layout = Layout(1, 1, 1, length, length, length, 0, 16, 16)
    sums, norms = segment_sums(x, x, layout, 1)
    last = x[0, -length:, 0].double()
    features = torch.where(last > 0, last + 1, last.exp())
    assert rms_ratio(sums[0, 0, 0], features.mT @ last) < 5e-3
    assert rms_ratio(norms[0, 0, 0], features.sum(0)) < 1e-5


class Layer(nn.Module):
    def __init__(self, update: str = "linear") -> None:
        super().__init__()
        self.update = update

    def forward(self, q: Tensor, k: Tensor, v: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
        o, state = infini_attention(
            q, k, v, gate, segment_len=8, update=self.update, output_final_state=True, impl="triton"
        )
        return o, state.memory


def test_the_operators_are_what_torch_expects(device: str) -> None:
    given = draw(device, 20)
    q, k, v, gate, memory, norm = (x.requires_grad_() for x in given[:6])
    for delta in (False, True):
        arguments = (q, k, v, q, k, gate, memory, norm, 8, 0, delta, False, True)
        torch.library.opcheck(torch.ops.longatlas.infini_forward.default, arguments)


@pytest.mark.parametrize("update", ["linear", "delta"])
def test_compile_and_export_see_one_graph(device: str, update: str) -> None:
    given, layer = draw(device, 20)[:4], Layer(update)
    expected = layer(*given)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    q = given[0].clone().requires_grad_()
    o, memory = compiled(q, *given[1:])
    torch.testing.assert_close((o, memory), expected)
    (grad,) = torch.autograd.grad(o.sum(), [q])
    torch.testing.assert_close(grad, torch.autograd.grad(layer(q, *given[1:])[0].sum(), [q])[0])
    exported = torch.export.export(layer, given)
    torch.testing.assert_close(exported.module()(*given), expected)


def test_checkpointing_and_autocast(device: str) -> None:
    given, layer = draw(device, 20)[:4], Layer()
    grads = []
    for call in (layer, lambda *x: checkpoint(layer, *x, use_reentrant=False)):
        q = given[0].clone().requires_grad_()
        grads.append(torch.autograd.grad(call(q, *given[1:])[0].square().sum(), [q])[0])
    assert torch.equal(*grads)
    expected = layer(*given)
    with torch.autocast(device, dtype=torch.bfloat16):
        found = layer(*given)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("q", lambda x: x.transpose(1, 2).contiguous().transpose(1, 2), "q has shape .* and strides .* contiguous"),
        ("k", lambda x: x[:, :1].expand_as(x), "k has shape .* k.contiguous"),
        ("v", lambda x: x.bfloat16(), "v has dtype torch.bfloat16; it must be q's"),
        ("gate", lambda x: x.tolist(), "gate is a list; it must be a torch.Tensor"),
        ("gate", lambda x: x[:3], r"gate has shape \[3\]; it must be \[H\] = \[4\]"),
        ("memory", lambda x: x.mT, "initial_state.memory has shape .* contiguous"),
        ("memory", lambda x: x.bfloat16(), "initial_state.memory has dtype torch.bfloat16; .* must be torch.float32"),
        ("norm", lambda x: x[:, :1], "initial_state.norm has shape"),
        ("begun_k", lambda x: x[:, 1:], "initial_state.k has shape"),
        ("k", lambda x: x.to("meta"), "k is on meta, q on .*; move them to one device"),
    ],
)
def test_bad_input(device: str, name: str, make: Any, words: str) -> None:
    given = draw(device, 8, begun=5)
    given = given._replace(**{name: make(getattr(given, name))})
    with pytest.raises(ValueError, match=words):
        run(given, "triton", 25, rotate=None)


def test_sizes_and_dtypes_without_a_kernel(device: str) -> None:
    with pytest.raises(LongAtlasError, match="D of q and k is 192 in fp32; with update='delta'"):
        run(draw(device, 8, size=192), "triton", update="delta")
    with pytest.raises(LongAtlasError, match=r"D of q and k is 20; .* multiples of 16 up to 256"):
        run(draw(device, 8, size=20), "triton")
    given = draw(device, 8)
    with pytest.raises(LongAtlasError, match=r"q has dtype torch.float64; impl='triton' takes"):
        run(double(given), "triton")
    assert chosen_impl(*double(given)[:3]) == "torch"
    assert chosen_impl(*given[:3]) == ("triton" if device == "cuda" else "torch")
