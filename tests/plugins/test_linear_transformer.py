"""The Linear Transformer against its quadratic form, and faults of careless feature maps."""

import pytest
import torch
from torch.nn import functional

from longatlas import LongAtlasError
from longatlas_plugins.efficient_attention.linear_transformer import LinearState, linear_attention

IMPLS = ("reference", "torch")


def inputs(length, batch=2, heads=3, size=8, width=5, dtype=torch.float64, seed=0):
    """q, k, v and the state after some other tokens."""
    draw = torch.Generator().manual_seed(seed)
    shapes = [(batch, length, heads, size)] * 2 + [(batch, length, heads, width)]
    q, k, v = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes)
    memory = torch.randn(batch, heads, size, width, generator=draw, dtype=torch.float64)
    norm = torch.rand(batch, heads, size, generator=draw, dtype=torch.float64)
    wide = torch.promote_types(dtype, torch.float32)
    return [q.to(dtype), k.to(dtype), v.to(dtype), LinearState(memory.to(wide), norm.to(wide))]


def quadratic(q, k, v):
    """eq (8): all weights at once."""
    q, k = functional.elu(q) + 1, functional.elu(k) + 1
    weights = torch.einsum("bthd,bshd->bhts", q, k).tril()
    return torch.einsum("bhts,bshe->bthe", weights / weights.sum(-1, keepdim=True), v)


def with_gradients(impl, length, dtype=torch.float64):
    q, k, v, state = inputs(length, dtype=dtype)
    leaves = [x.requires_grad_() for x in (q, k, v, *state)]
    o, after = linear_attention(q, k, v, initial_state=LinearState(*leaves[3:]), output_final_state=True, impl=impl)
    draw = torch.Generator().manual_seed(1)
    results = [o, *after]
    weights = [torch.randn(x.shape, generator=draw, dtype=torch.float64) for x in results]
    loss = sum((x.double() * w).sum() for x, w in zip(results, weights, strict=True))
    return [*(x.detach() for x in results), *torch.autograd.grad(loss, leaves)]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("length", [1, 63, 150])
def test_quadratic_form(impl, length):
    q, k, v, _ = inputs(length)
    o, state = linear_attention(q, k, v, output_final_state=True, impl=impl)
    torch.testing.assert_close(o, quadratic(q, k, v), rtol=0, atol=1e-10)
    features = functional.elu(k) + 1
    torch.testing.assert_close(state.memory, torch.einsum("bthd,bthe->bhde", features, v), rtol=0, atol=1e-10)
    torch.testing.assert_close(state.norm, features.sum(1), rtol=0, atol=1e-10)


@pytest.mark.parametrize("length", [1, 63, 150])
def test_torch_equals_reference_with_all_gradients(length):
    expected = with_gradients("reference", length)
    torch.testing.assert_close(with_gradients("torch", length), expected, rtol=0, atol=1e-9)


def test_bf16_inputs_against_fp64_on_the_same_values():
    q, k, v, _ = inputs(300, dtype=torch.bfloat16)
    o, state = linear_attention(q, k, v, output_final_state=True)
    expected = quadratic(q.double(), k.double(), v.double())
    assert o.dtype == torch.bfloat16
    assert state.memory.dtype == state.norm.dtype == torch.float32
    assert float((o.double() - expected).norm() / expected.norm()) < 5e-3


@pytest.mark.parametrize("cut", [0, 1, 64, 77, 130])
def test_carried_state_equals_one_call(cut):
    q, k, v, state = inputs(130)
    whole, last = linear_attention(q, k, v, initial_state=state, output_final_state=True)
    outputs = []
    for part in (slice(0, cut), slice(cut, 130)):
        o, state = linear_attention(q[:, part], k[:, part], v[:, part], initial_state=state, output_final_state=True)
        outputs.append(o)
    torch.testing.assert_close((torch.cat(outputs, 1), *state), (whole, *last), rtol=0, atol=1e-10)


def test_one_token_returns_its_value():
    """A weight alone is 1 after normalising, whatever its size."""
    q, k, v, _ = inputs(1)
    torch.testing.assert_close(linear_attention(q, k, v)[0], v, rtol=0, atol=1e-10)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_far_negative_inputs_keep_their_weight(impl, dtype):
    """elu(x) + 1 in low precision is 0 there, and the output 0/0."""
    q, k, v, _ = inputs(70, dtype=dtype)
    o, _ = linear_attention(q - 20, k - 20, v, impl=impl)
    expected = quadratic_exp((q - 20).double(), (k - 20).double(), v.double())
    assert float((o.double() - expected).norm() / expected.norm()) < 5e-3


def quadratic_exp(q, k, v):
    weights = torch.einsum("bthd,bshd->bhts", q.exp(), k.exp()).tril()
    return torch.einsum("bhts,bshe->bthe", weights / weights.sum(-1, keepdim=True), v)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("value", [-1e4, 0.0, 1e4])
def test_extreme_inputs_have_finite_outputs_and_gradients(impl, value):
    q = torch.full((1, 70, 1, 4), value, requires_grad=True)
    k = torch.full((1, 70, 1, 4), value, requires_grad=True)
    o, _ = linear_attention(q, k, torch.ones(1, 70, 1, 4), impl=impl)
    o.sum().backward()
    for x in (o, q.grad, k.grad):
        assert torch.isfinite(x).all()


def test_empty_input():
    q, k, v, state = inputs(0)
    o, after = linear_attention(q, k, v, initial_state=state, output_final_state=True)
    assert o.shape == v.shape
    assert all(torch.equal(a, b) for a, b in zip(after, state, strict=True))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"k": torch.zeros(2, 7, 3, 8)}, r"k has shape \[2, 7, 3, 8\]; it must be \[B, T, H, D\] = \[2, 8, 3, 8\]"),
        ({"v": torch.zeros(2, 8, 3)}, r"v has shape \[2, 8, 3\]; it must be \[B, T, H, E\] = \[2, 8, 3, E\]"),
        ({"initial_state": LinearState(torch.zeros(1), torch.zeros(1))}, "initial_state.memory has shape"),
        ({"impl": "cuda"}, "impl is 'cuda'; it must be one of auto, torch, reference"),
    ],
)
def test_bad_input(changed, words):
    q, k, v, _ = inputs(8)
    with pytest.raises(LongAtlasError, match=words):
        linear_attention(**{"q": q, "k": k, "v": v, **changed})
