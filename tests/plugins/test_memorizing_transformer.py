"""The Memorizing Transformer against dense masked attention, its reference and the facts of the paper."""

import pytest
import torch

from longatlas import Decoder, DecoderConfig, LongAtlasError
from longatlas.ops import rotary_embedding
from longatlas_plugins.long_term_memory.memorizing_transformer import MemorizingState, memorizing_attention

N, M, K = 8, 20, 3
SETTINGS = {"segment_len": N, "memory_size": M, "top_k": K}


def inputs(length=45, heads=4, kv_heads=2, size=6, width=5, dtype=torch.float64, seed=0, batch=2):
    torch.manual_seed(seed)
    shapes = [(batch, length, heads, size), (batch, length, kv_heads, size), (batch, length, kv_heads, width)]
    tensors = [torch.randn(shape, dtype=dtype) for shape in shapes]
    return [*tensors, 1 + torch.rand(heads, dtype=dtype) * 3, torch.randn(heads, dtype=dtype)]


def expected_output(q, k, v, scale, gate, xl_cache):
    """Dense matrices in fp64; the memory's neighbours by sorting, one query after the other."""
    k, v = k.repeat_interleave(2, 2), v.repeat_interleave(2, 2)
    q, k = q / q.norm(dim=-1, keepdim=True), k / k.norm(dim=-1, keepdim=True)
    place = torch.arange(q.shape[1])
    segment = place // N
    dots = torch.einsum("bthd,bshd->bhts", q, k)
    scores = scale[:, None, None] * dots
    near = place > place[:, None] - N if xl_cache else segment == segment[:, None]
    local = torch.softmax(scores.masked_fill(~(near & (place <= place[:, None])), float("-inf")), -1)
    weights = local.clone()
    for b, h, t in torch.cartesian_prod(torch.arange(2), torch.arange(4), torch.arange(N, q.shape[1])).tolist():
        end = t // N * N
        start = max(0, end - M)
        best = sorted(range(start, end), key=lambda j: -dots[b, h, t, j].item())[:K]
        g = torch.sigmoid(gate[h])
        weights[b, h, t] *= 1 - g
        weights[b, h, t, best] += g * torch.softmax(scores[b, h, t, best], -1)
    return torch.einsum("bhts,bshe->bthe", weights, v)


@pytest.mark.parametrize("impl", ["reference", "torch"])
@pytest.mark.parametrize("xl_cache", [True, False])
def test_output_equals_dense_attention_and_a_sorted_search(impl, xl_cache):
    tensors = inputs()
    o, _ = memorizing_attention(*tensors, xl_cache=xl_cache, impl=impl, **SETTINGS)
    # The length is divided by sqrt(|x|² + 1e-6): hence not 1e-10.
    torch.testing.assert_close(o, expected_output(*tensors, xl_cache), rtol=0, atol=1e-4)
    long = [10000 * tensors[0], 10000 * tensors[1], *tensors[2:]]
    o, _ = memorizing_attention(*long, xl_cache=xl_cache, impl=impl, **SETTINGS)
    torch.testing.assert_close(o, expected_output(*tensors, xl_cache), rtol=0, atol=1e-10)


@pytest.mark.parametrize("xl_cache", [True, False])
@pytest.mark.parametrize("length", [1, N - 1, N, N + 1, 45])
@pytest.mark.parametrize("begun", [0, 3, 2 * N])
@pytest.mark.parametrize("with_memory", [True, False])
def test_torch_equals_the_reference_with_every_gradient(xl_cache, length, begun, with_memory):
    settings = {**SETTINGS, "xl_cache": xl_cache, "rotate": rotary_embedding(6), "output_final_state": True}
    last = 5 if with_memory else 4
    _, start = memorizing_attention(*inputs(length=begun, seed=1)[:last], **settings)
    results = []
    for impl in ("reference", "torch"):
        leaves = [x.requires_grad_() for x in (*inputs(length=length)[:last], start.k.clone(), start.v.clone())]
        state = MemorizingState(*start[:2], *leaves[last:], start.position)
        o, state = memorizing_attention(*leaves[:last], initial_state=state, impl=impl, **settings)
        torch.manual_seed(2)
        total = sum((x * torch.randn(x.shape, dtype=x.dtype)).sum() for x in (o, *state[:4]))
        grads = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
        results.append([o, *state[:4], *grads])
        assert state.position == begun + length
    for reference, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, reference, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("xl_cache", [True, False])
@pytest.mark.parametrize("impl", ["reference", "torch"])
def test_splitting_anywhere_and_decoding_equal_one_call(xl_cache, impl):
    length = 3 * N + 3
    q, k, v, scale, gate = inputs(length=length)
    settings = {**SETTINGS, "xl_cache": xl_cache, "rotate": rotary_embedding(6), "impl": impl}
    whole, final = memorizing_attention(q, k, v, scale, gate, output_final_state=True, **settings)
    for cuts in [*([cut] for cut in range(length + 1)), list(range(1, length))]:
        state, outputs = None, []
        for a, b in zip([0, *cuts], [*cuts, length], strict=True):
            piece = (x[:, a:b] for x in (q, k, v))
            o, state = memorizing_attention(
                *piece, scale, gate, initial_state=state, output_final_state=True, **settings
            )
            outputs.append(o)
        torch.testing.assert_close(torch.cat(outputs, 1), whole, rtol=0, atol=1e-10)
        for got, expected in zip(state, final, strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("impl", ["reference", "torch"])
def test_memory_gets_no_gradient_but_is_read(impl):
    q, k, v, scale, gate = inputs(length=3 * N)
    v.requires_grad_()
    o, _ = memorizing_attention(q, k, v, scale, gate, xl_cache=False, impl=impl, **SETTINGS)
    (grad,) = torch.autograd.grad(o[:, 2 * N :].sum(), v)
    assert (grad[:, : 2 * N] == 0).all()
    assert (grad[:, 2 * N :] != 0).any()
    with torch.no_grad():
        changed = torch.cat([v[:, :N] + 1, v[:, N:]], 1)
        after, _ = memorizing_attention(q, k, changed, scale, gate, xl_cache=False, impl=impl, **SETTINGS)
    assert not torch.equal(after[:, 2 * N :], o[:, 2 * N :])


def test_memory_keeps_the_latest_tokens_of_whole_segments():
    q, k, v, scale, gate = inputs(length=5 * N + 3)
    _, state = memorizing_attention(q, k, v, scale, gate, output_final_state=True, **SETTINGS)
    assert torch.equal(state.memory_v, v[:, 5 * N - M : 5 * N])
    torch.testing.assert_close(state.memory_k.norm(dim=-1), torch.ones(2, M, 2, dtype=v.dtype), rtol=0, atol=1e-4)
    assert state.k.shape[1] == N - 1
    _, small = memorizing_attention(q, k, v, scale, gate, segment_len=N, memory_size=3, output_final_state=True)
    assert torch.equal(small.memory_v, v[:, 5 * N - 3 : 5 * N])


def test_bf16_stays_near_fp64():
    # top_k is the whole memory: a near tie at the border of the selection would be no fault.
    tensors = inputs(dtype=torch.bfloat16)
    settings = {"segment_len": N, "memory_size": M, "top_k": M}
    o, _ = memorizing_attention(*tensors, **settings)
    exact, _ = memorizing_attention(*(x.double() for x in tensors), **settings)
    assert o.dtype == torch.bfloat16
    assert (o - exact).norm() < 2e-2 * exact.norm()


def test_only_the_chosen_layer_has_a_memory():
    for layer, chosen in ((-1, 2), (0, 0), (1, 1)):
        config = DecoderConfig(vocab_size=16, d_model=16, n_layers=3, n_heads=2)
        decoder = Decoder(config, f"memorizing_transformer:segment_len=4:memory_size=6:memory_layer={layer}")
        _, state = decoder(torch.randint(16, (1, 13)))
        sizes = [block.mixer.memory_k.shape[1] for block in state.layers]
        assert sizes == [6 if i == chosen else 0 for i in range(3)]
    with pytest.raises(LongAtlasError, match=r"memory_layer is 3; with 3 layers .* 2"):
        Decoder(config, "memorizing_transformer:memory_layer=3")


def test_no_tokens_give_no_output_and_an_empty_state():
    for impl in ("torch", "reference"):
        o, state = memorizing_attention(*inputs(length=0), output_final_state=True, impl=impl, **SETTINGS)
        assert o.shape == (2, 0, 4, 5)
        assert state.position == 0


def test_bad_input_is_named():
    q, k, v, scale, gate = inputs()
    _, state = memorizing_attention(q, k, v, scale, gate, output_final_state=True, **SETTINGS)
    for bad, word in [
        ({"impl": "cuda"}, "impl is 'cuda'.*auto, torch, reference"),
        ({"top_k": 0}, "top_k is 0"),
        (
            {"initial_state": state, "memory_size": 7},
            r"memory_k has shape \[2, 20, .*must be .* = \[2, 7, ",
        ),
    ]:
        with pytest.raises(ValueError, match=word):
            memorizing_attention(q, k, v, scale, gate, **{**SETTINGS, **bad})
    with pytest.raises(ValueError, match=r"gate has shape \[3\].*\[4\]"):
        memorizing_attention(q, k, v, scale, gate[:3], **SETTINGS)


@pytest.mark.parametrize("impl", ["reference", "torch"])
def test_autocast_changes_nothing(impl):
    q, k, v, scale, gate = inputs(dtype=torch.bfloat16)
    wide = scale.float(), gate.float()
    o, _ = memorizing_attention(q, k, v, *wide, **SETTINGS, impl=impl)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = memorizing_attention(q, k, v, *wide, **SETTINGS, impl=impl)
    assert torch.equal(found, o)
