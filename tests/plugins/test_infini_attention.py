"""Infini-attention against closed forms, its reference and the faults of other implementations."""

import pytest
import torch
from torch.nn import functional

from longatlas import LongAtlasError
from longatlas.ops import rotary_embedding
from longatlas_plugins.long_term_memory.infini_attention import InfiniState, infini_attention, mixer

N = 8


def inputs(length=29, heads=4, kv_heads=2, size=6, width=5, dtype=torch.float64, seed=0, batch=2):
    torch.manual_seed(seed)
    shapes = [(batch, length, heads, size), (batch, length, kv_heads, size), (batch, length, kv_heads, width)]
    return [torch.randn(shape, dtype=dtype) for shape in shapes] + [torch.randn(heads, dtype=dtype)]


def sigma(x):
    return functional.elu(x) + 1


def local_and_memory(q, k, v):
    """Closed forms in fp64, whole matrices: attention inside the segment, and the linear rule's read."""
    groups = q.shape[2] // k.shape[2]
    k, v = k.repeat_interleave(groups, 2), v.repeat_interleave(groups, 2)
    place = torch.arange(q.shape[1])
    segment = place // N
    scores = torch.einsum("bthd,bshd->bhts", q, k) / q.shape[-1] ** 0.5
    inside = (segment[:, None] == segment) & (place[:, None] >= place)
    local = torch.softmax(scores.masked_fill(~inside, float("-inf")), -1)
    weights = torch.einsum("bthd,bshd->bhts", sigma(q), sigma(k)) * (segment[:, None] > segment)
    memory = weights / weights.sum(-1, keepdim=True).clamp(min=1e-300)
    return [torch.einsum("bhts,bshe->bthe", w, v) for w in (local, memory)]


@pytest.mark.parametrize("impl", ["reference", "torch"])
@pytest.mark.parametrize("first_segment", ["local", "gated"])
def test_linear_rule_equals_its_closed_form(impl, first_segment):
    q, k, v, gate = inputs()
    local, memory = local_and_memory(q, k, v)
    g = torch.sigmoid(gate)[:, None]
    expected = g * memory + (1 - g) * local
    if first_segment == "local":
        expected[:, :N] = local[:, :N]
    o, state = infini_attention(
        q, k, v, gate, segment_len=N, first_segment=first_segment, output_final_state=True, impl=impl
    )
    torch.testing.assert_close(o, expected, rtol=0, atol=1e-10)
    whole = slice(0, 29 // N * N)
    torch.testing.assert_close(
        state.memory, torch.einsum("bshd,bshe->bhde", sigma(k[:, whole]), v[:, whole]), rtol=0, atol=1e-10
    )
    torch.testing.assert_close(state.norm, sigma(k[:, whole]).sum(1), rtol=0, atol=1e-10)
    torch.testing.assert_close(state.k, k[:, 24:], rtol=0, atol=0)


@pytest.mark.parametrize("impl", ["reference", "torch"])
def test_delta_rule_freezes_the_memory_within_a_segment(impl):
    q, k, v, gate = inputs(length=3 * N, heads=1, kv_heads=1)
    memory, norm = torch.zeros(2, 6, 5, dtype=q.dtype), torch.zeros(2, 6, dtype=q.dtype)
    for s in range(0, 3 * N, N):
        frozen, frozen_norm = memory.clone(), norm.clone()
        for t in range(s, s + N):
            for b in range(2):
                feature = sigma(k[b, t, 0])
                old = feature @ frozen[b] / (feature @ frozen_norm[b]) if s else torch.zeros(5, dtype=q.dtype)
                memory[b] += torch.outer(feature, v[b, t, 0] - old)
                norm[b] += feature
    _, state = infini_attention(q, k, v, gate, segment_len=N, update="delta", output_final_state=True, impl=impl)
    torch.testing.assert_close(state.memory[:, 0], memory, rtol=0, atol=1e-10)
    torch.testing.assert_close(state.norm[:, 0], norm, rtol=0, atol=1e-10)


@pytest.mark.parametrize("update", ["linear", "delta"])
@pytest.mark.parametrize("length", [1, N - 1, N, N + 1, 61])
@pytest.mark.parametrize("begun", [0, 3, 2 * N])
def test_torch_equals_the_reference_with_every_gradient(update, length, begun):
    rotate = rotary_embedding(6)
    past = inputs(length=begun, seed=1)
    _, start = infini_attention(*past, segment_len=N, update=update, output_final_state=True)
    results = []
    for impl in ("reference", "torch"):
        leaves = [x.requires_grad_() for x in (*inputs(length=length), *(x.clone() for x in start[:4]))]
        o, state = infini_attention(
            *leaves[:4],
            segment_len=N,
            rotate=rotate,
            update=update,
            initial_state=InfiniState(*leaves[4:], start.position),
            output_final_state=True,
            impl=impl,
        )
        torch.manual_seed(2)
        total = sum((x * torch.randn(x.shape, dtype=x.dtype)).sum() for x in (o, *state[:4]))
        grads = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
        results.append([o, *state[:4], *grads])
        assert state.position == begun + length
    for reference, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, reference, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("update", ["linear", "delta"])
@pytest.mark.parametrize("impl", ["reference", "torch"])
def test_splitting_anywhere_and_decoding_equal_one_call(update, impl):
    q, k, v, gate = inputs(length=2 * N + 3)
    settings = {
        "segment_len": N,
        "rotate": rotary_embedding(6),
        "update": update,
        "output_final_state": True,
        "impl": impl,
    }
    whole, final = infini_attention(q, k, v, gate, **settings)
    cuts = [[cut] for cut in range(2 * N + 4)] + [list(range(1, 2 * N + 3))]
    for cut in cuts:
        state, outputs = None, []
        for a, b in zip([0, *cut], [*cut, 2 * N + 3], strict=True):
            o, state = infini_attention(q[:, a:b], k[:, a:b], v[:, a:b], gate, initial_state=state, **settings)
            outputs.append(o)
        torch.testing.assert_close(torch.cat(outputs, 1), whole, rtol=0, atol=1e-10)
        for got, expected in zip(state, final, strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


def test_a_prompt_of_whole_segments_writes_each_once():
    q, k, v, gate = inputs(length=3 * N)
    _, state = infini_attention(q, k, v, gate, segment_len=N, output_final_state=True)
    torch.testing.assert_close(state.norm, sigma(k).sum(1))
    assert state.k.shape[1] == 0
    assert state.position == 3 * N


def test_gate_opens_the_memory_and_starts_half_open():
    q, k, v, gate = inputs(length=2 * N)
    local, memory = local_and_memory(q, k, v)
    opened, _ = infini_attention(q, k, v, torch.full_like(gate, 40.0), segment_len=N)
    torch.testing.assert_close(opened[:, N:], memory[:, N:])
    closed, _ = infini_attention(q, k, v, torch.full_like(gate, -40.0), segment_len=N)
    torch.testing.assert_close(closed[:, N:], local[:, N:])
    from longatlas import DecoderConfig

    built = mixer(
        DecoderConfig(d_model=32, n_heads=4), segment_len=N, update="linear", first_segment="local", rotate=None
    )
    assert torch.equal(torch.sigmoid(built.gate), torch.full((4,), 0.5))
    assert built.gate.requires_grad


def test_segments_are_read_before_they_are_written():
    q, k, v, gate = inputs(length=2 * N)
    v = torch.cat([v[:, :N], torch.full_like(v[:, N:], 100.0)], 1)
    o, _ = infini_attention(q, k, v, torch.full_like(gate, 40.0), segment_len=N)
    assert o[:, N:].abs().max() < 50


@pytest.mark.parametrize("update", ["linear", "delta"])
def test_gradients_reach_the_first_segment_through_the_memory(update):
    q, k, v, gate = inputs(length=4 * N)
    k.requires_grad_()
    v.requires_grad_()
    o, _ = infini_attention(q, k, v, gate, segment_len=N, update=update)
    for grad in torch.autograd.grad(o[:, 3 * N :].sum(), (k, v)):
        assert (grad[:, :N].abs().amax((0, 2, 3)) > 0).all()


@pytest.mark.parametrize("update", ["linear", "delta"])
@pytest.mark.parametrize("impl", ["reference", "torch"])
@pytest.mark.parametrize("shift", [-200.0, -45.0, 200.0])
def test_large_inputs_give_finite_outputs_and_gradients(update, impl, shift):
    leaves = [x.requires_grad_() for x in inputs(length=3 * N + 1, dtype=torch.float32)]
    q, k, v, gate = leaves
    o, state = infini_attention(
        q + shift, k + shift, v, gate, segment_len=N, update=update, output_final_state=True, impl=impl
    )
    grads = torch.autograd.grad(o.sum(), leaves)
    assert all(torch.isfinite(x).all() for x in (o, state.memory, state.norm, *grads))


def test_bf16_features_far_below_zero_are_not_lost():
    q, k, v, gate = inputs(length=2 * N, dtype=torch.bfloat16)
    low = torch.full_like(k, -20.0)
    _, state = infini_attention(q, low, v, gate, segment_len=N, output_final_state=True)
    assert state.norm.dtype == torch.float32
    torch.testing.assert_close(state.norm, 2 * N * torch.exp(low[:, 0].float()), rtol=1e-5, atol=0)
    o, _ = infini_attention(q, k, v, gate, segment_len=N)
    exact, _ = infini_attention(*(x.double() for x in (q, k, v, gate)), segment_len=N)
    assert o.dtype == torch.bfloat16
    assert (o - exact).norm() < 1e-2 * exact.norm()


def test_no_tokens_give_no_output_and_the_same_state():
    q, k, v, gate = inputs(length=0)
    for impl in ("torch", "reference"):
        o, state = infini_attention(q, k, v, gate, segment_len=N, output_final_state=True, impl=impl)
        assert o.shape == (2, 0, 4, 5)
        assert state.position == 0
    assert infini_attention(q, k, v, gate, segment_len=N)[1] is None


def test_bad_input_is_named():
    q, k, v, gate = inputs()
    _, state = infini_attention(q, k, v, gate, segment_len=N, output_final_state=True)
    for bad, word in [
        ({"impl": "cuda"}, "impl is 'cuda'.*auto, triton, torch, reference"),
        ({"impl": "triton"}, "q is on cpu; impl='triton' runs on an NVIDIA GPU"),
        ({"update": "gated"}, "update is 'gated'.*linear, delta"),
        ({"first_segment": "none"}, "first_segment.*local, gated"),
        ({"segment_len": 0}, "segment_len is 0"),
        (
            {"initial_state": state, "segment_len": 7},
            r"initial_state.k has .*\[2, 1, 2, 6\]",
        ),
    ]:
        with pytest.raises(LongAtlasError, match=word):
            infini_attention(q, k, v, gate, **{"segment_len": N, **bad})
    with pytest.raises(ValueError, match=r"gate has shape \[3\].*\[4\]"):
        infini_attention(q, k, v, gate[:3], segment_len=N)
    with pytest.raises(ValueError, match="multiple"):
        infini_attention(q[:, :, :3], k, v, gate[:3], segment_len=N)


@pytest.mark.parametrize("impl", ["reference", "torch"])
@pytest.mark.parametrize("update", ["linear", "delta"])
def test_autocast_changes_nothing_and_keeps_the_state_in_fp32(impl, update):
    q, k, v, gate = inputs(dtype=torch.bfloat16)
    settings = {"segment_len": N, "update": update, "output_final_state": True, "impl": impl}
    o, state = infini_attention(q, k, v, gate.float(), **settings)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, after = infini_attention(q, k, v, gate.float(), **settings)
    assert after.memory.dtype == after.norm.dtype == torch.float32
    assert torch.equal(found, o)
    assert all(torch.equal(x, y) for x, y in zip(after[:4], state[:4], strict=True))


def test_other_dtypes_are_named():
    q, k, v, gate = inputs(dtype=torch.float32)
    _, state = infini_attention(q, k, v, gate, segment_len=N, output_final_state=True)
    for name in ("q", "k", "v"):
        tensors = {"q": q, "k": k, "v": v}
        tensors[name] = tensors[name].long()
        with pytest.raises(LongAtlasError, match=f"^{name} has dtype torch.int64"):
            infini_attention(**tensors, gate=gate, segment_len=N)
    for name in ("memory", "norm", "k", "v"):
        bad = state._replace(**{name: getattr(state, name).bfloat16()})
        with pytest.raises(LongAtlasError, match=rf"initial_state\.{name} has dtype torch.bfloat16.*torch.float32"):
            infini_attention(q, k, v, gate, segment_len=N, initial_state=bad)
