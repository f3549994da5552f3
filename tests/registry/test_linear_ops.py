"""The chunked linear attention against closed forms and the recurrence."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longatlas import LongAtlasError
from longatlas.ops import chunked_linear_attention, linear, recurrent_linear_attention


def inputs(length, batch=2, heads=3, size=6, width=5, decay=(0.0, 0.3, 8.0), dtype=torch.float64, seed=0):
    """q, k, v, decay, initial_state."""
    draw = torch.Generator().manual_seed(seed)
    shapes = [(batch, length, heads, size)] * 2 + [(batch, length, heads, width), (batch, heads, size, width)]
    q, k, v, state = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes)
    rates = torch.tensor(decay[:heads], dtype=torch.float64)
    return [q.to(dtype), k.to(dtype), v.to(dtype), rates, state.to(torch.promote_types(dtype, torch.float32))]


def quadratic(q, k, v, decay, state, scale):
    """Closed form with T x T weights: o and S_T = λ^T S_0 + Σ λ^(T-t) k_t^T v_t."""
    t = torch.arange(1, q.shape[1] + 1, dtype=q.dtype)
    distance = t[:, None] - t
    rate = decay[:, None, None]
    weights = torch.where(distance >= 0, torch.exp(-rate * distance.clamp(min=0)), 0.0)  # [H, T, T]
    o = torch.einsum("bthd,bshd,hts,bshe->bthe", q, k, weights, v)
    from_start = torch.exp(-decay[:, None] * t)  # [H, T]
    o = o + torch.einsum("bthd,ht,bhde->bthe", q, from_start, state)
    to_end = torch.exp(-decay[:, None] * (len(t) - t))
    final = torch.einsum("bthd,ht,bthe->bhde", k, to_end, v)
    return scale * o, final + torch.exp(-rate * len(t)) * state


def with_gradients(f, tensors, seed=1, **options):
    """Outputs, final state, and the gradients to q, k, v, decay and state that come through both."""
    leaves = [x.detach().clone().requires_grad_() for x in tensors]
    q, k, v, decay, state = leaves
    o, final = f(q, k, v, decay=decay, initial_state=state, **options)
    draw = torch.Generator().manual_seed(seed)
    weights = [torch.randn(x.shape, generator=draw, dtype=torch.float64) for x in (o, final)]
    loss = (o.double() * weights[0]).sum() + (final.double() * weights[1]).sum()
    return [o.detach(), final.detach(), *torch.autograd.grad(loss, leaves)]


def rms_ratio(found, expected):
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("f", [chunked_linear_attention, recurrent_linear_attention])
@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 200])
def test_closed_form(f, length):
    q, k, v, decay, state = inputs(length)
    o, final = f(q, k, v, decay=decay, scale=0.7, initial_state=state)
    expected = quadratic(q, k, v, decay, state, 0.7)
    torch.testing.assert_close((o, final), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("length", "chunk"), [(1, 64), (5, 64), (64, 64), (150, 64), (150, 16), (17, 16)])
def test_all_gradients_equal_those_of_the_recurrence(length, chunk):
    found = with_gradients(chunked_linear_attention, inputs(length), scale=0.7, chunk=chunk)
    expected = with_gradients(recurrent_linear_attention, inputs(length), scale=0.7)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_many_superchunks_equal_one(monkeypatch):
    tensors = inputs(700)
    whole = with_gradients(chunked_linear_attention, tensors, chunk=16)
    monkeypatch.setattr(linear, "SUPERCHUNK_ELEMENTS", {"cpu": 1})
    monkeypatch.setattr(linear, "MIN_CHUNKS", 3)
    pieces = with_gradients(chunked_linear_attention, tensors, chunk=16)
    torch.testing.assert_close(pieces, whole, rtol=1e-13, atol=1e-10)


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(0, 90),
    chunk=st.integers(1, 40),
    rates=st.lists(st.floats(0, 8), min_size=1, max_size=3),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    cut=st.floats(0, 1),
)
def test_any_shape_decay_and_cut(length, chunk, rates, sizes, cut):
    q, k, v, decay, state = inputs(length, 1, len(rates), *sizes, decay=rates)
    expected = recurrent_linear_attention(q, k, v, decay=decay, initial_state=state)
    found = chunked_linear_attention(q, k, v, decay=decay, initial_state=state, chunk=chunk)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    at = round(cut * length)
    first, middle = chunked_linear_attention(
        q[:, :at], k[:, :at], v[:, :at], decay=decay, initial_state=state, chunk=chunk
    )
    second, final = chunked_linear_attention(
        q[:, at:], k[:, at:], v[:, at:], decay=decay, initial_state=middle, chunk=chunk
    )
    torch.testing.assert_close((torch.cat([first, second], 1), final), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_against_fp64(dtype):
    tensors = inputs(300, heads=4, size=16, width=16, decay=(0.0, 0.004, 0.5, 8.0), dtype=dtype)
    exact = with_gradients(recurrent_linear_attention, [x.double() for x in tensors])
    found = with_gradients(chunked_linear_attention, tensors)
    assert found[0].dtype == found[2].dtype == dtype
    assert found[1].dtype == torch.float32
    forward, backward = (1e-4, 1e-4) if dtype == torch.float32 else (5e-3, 1e-2)
    for i, (a, b) in enumerate(zip(found, exact, strict=True)):
        assert rms_ratio(a, b) < (forward if i < 2 else backward), i


def test_strong_decay_has_no_nan_and_forgets():
    tensors = inputs(500, heads=2, decay=(8.0, 100.0), dtype=torch.float32)
    for x in with_gradients(chunked_linear_attention, tensors):
        assert torch.isfinite(x).all()
    q, k, v, decay, _ = tensors
    o, _ = chunked_linear_attention(q, k, v, decay=decay)
    torch.testing.assert_close(o[:, :, 1], ((q * k).sum(-1, keepdim=True) * v)[:, :, 1])


def test_no_decay_and_no_state_are_zeros():
    q, k, v, _, state = inputs(100)
    expected = chunked_linear_attention(q, k, v, decay=torch.zeros(3), initial_state=torch.zeros_like(state))
    torch.testing.assert_close(chunked_linear_attention(q, k, v), expected, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(2, 0, 3, 6), (0, 5, 3, 6)])
def test_nothing_to_read_leaves_the_state(shape):
    q, v = torch.zeros(shape), torch.zeros(*shape[:3], 5)
    state = torch.randn(shape[0], 3, 6, 5)
    o, final = chunked_linear_attention(q, q, v, initial_state=state)
    assert o.shape == v.shape
    assert torch.equal(final, state)


def test_a_view_as_input_gives_the_same():
    q, k, v, decay, state = inputs(130)
    views = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    expected = with_gradients(chunked_linear_attention, [q, k, v, decay, state])
    found = with_gradients(chunked_linear_attention, [*views, decay, state])
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_memory_grows_linearly_to_70000_tokens():
    q, k, v, _, _ = inputs(70_000, batch=1, heads=1, size=4, width=4, dtype=torch.float32)
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                sizes.append(out.numel())
            return out

    with Watch():
        o, _ = chunked_linear_attention(q, k, v, decay=torch.tensor([0.01]))
        o.sum().backward()
    assert max(sizes) <= q.numel()
    assert all(torch.isfinite(x.grad).all() for x in (q, k, v))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda q, k, v, d, s: (q, k[:, :3], v, d, s, 64), "k has shape"),
        (lambda q, k, v, d, s: (q, k, v[:, :, :1], d, s, 64), "v has shape"),
        (lambda q, k, v, d, s: (q, k, v, d[:1], s, 64), "decay has shape"),
        (lambda q, k, v, d, s: (q, k, v, d, s[:1], 64), "initial_state has shape"),
        (lambda q, k, v, d, s: (q, k, v, d, s, 0), "chunk is 0"),
    ],
)
def test_bad_input(change, word):
    q, k, v, decay, state, chunk = change(*inputs(8))
    with pytest.raises(LongAtlasError, match=word):
        chunked_linear_attention(q, k, v, decay=decay, initial_state=state, chunk=chunk)
