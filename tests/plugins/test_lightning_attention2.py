"""Lightning Attention-2 against closed forms, and the known faults of other implementations."""

import pytest
import torch

from longatlas import LongAtlasError
from longatlas.decoder.config import DecoderConfig
from longatlas_plugins.efficient_attention.lightning_attention2 import (
    LightningState,
    decay_slopes,
    lightning_attention,
    lightning_mixer,
)

IMPLS = ("reference", "torch")


def inputs(length, batch=2, heads=3, size=16, width=32, dtype=torch.float64, seed=0):
    """q, k, v, decay, initial_state."""
    draw = torch.Generator().manual_seed(seed)
    shapes = [(batch, length, heads, size)] * 2 + [(batch, length, heads, width), (batch, heads, size, width)]
    q, k, v, state = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes)
    decay = torch.linspace(0.0, 0.2, heads, dtype=torch.float64)
    return [q.to(dtype), k.to(dtype), v.to(dtype), decay, state.to(torch.promote_types(dtype, torch.float32))]


def final_sum(k, v, decay):
    """S_T = Σ λ^(T-t) k_t^T v_t."""
    left = torch.arange(k.shape[1] - 1, -1, -1, dtype=k.dtype)
    return torch.einsum("bthd,ht,bthe->bhde", k, torch.exp(-decay[:, None] * left), v)


def with_gradients(impl, length, dtype=torch.float64, **options):
    exact = inputs(length)
    leaves = [x.to(y.dtype).requires_grad_() for x, y in zip(exact, inputs(length, dtype=dtype), strict=True)]
    q, k, v, decay, state = leaves
    o, final = lightning_attention(
        q, k, v, decay, scale=0.3, initial_state=state, output_final_state=True, impl=impl, **options
    )
    draw = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=draw, dtype=torch.float64) for x in (o, final)]
    loss = (o.double() * weights[0]).sum() + (final.double() * weights[1]).sum()
    return [o.detach(), final.detach(), *torch.autograd.grad(loss, leaves)]


def rms_ratio(found, expected):
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("length", [1, 63, 256, 300])
def test_state_is_the_exact_sum(impl, length):
    """No extra λ on the state, and a ragged last block is not decayed beyond its end."""
    q, k, v, decay, state = inputs(length)
    _, final = lightning_attention(q, k, v, decay, output_final_state=True, impl=impl)
    torch.testing.assert_close(final, final_sum(k, v, decay), rtol=0, atol=1e-10)
    _, final = lightning_attention(q, k, v, decay, initial_state=state, output_final_state=True, impl=impl)
    carried = torch.exp(-decay * length)[:, None, None] * state
    torch.testing.assert_close(final, final_sum(k, v, decay) + carried, rtol=0, atol=1e-10)


@pytest.mark.parametrize("impl", IMPLS)
def test_output_is_the_decayed_sum_over_the_past(impl):
    q, k, v, decay, _ = inputs(40)
    distance = torch.arange(40.0)[:, None] - torch.arange(40.0)
    weights = (torch.exp(-decay[:, None, None] * distance)).tril()
    expected = 0.5 * torch.einsum("bthd,bshd,hts,bshe->bthe", q, k, weights, v)
    o, state = lightning_attention(q, k, v, decay, scale=0.5, impl=impl)
    torch.testing.assert_close(o, expected, rtol=0, atol=1e-10)
    assert state is None


@pytest.mark.parametrize("length", [1, 63, 130])
def test_torch_equals_reference_with_all_gradients(length):
    expected = with_gradients("reference", length)
    torch.testing.assert_close(with_gradients("torch", length), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("dtype", "forward", "backward"), [(torch.float32, 1e-4, 1e-4), (torch.bfloat16, 5e-3, 1e-2)])
def test_low_precision_against_the_fp64_reference(dtype, forward, backward):
    expected = with_gradients("reference", 200)
    found = with_gradients("torch", 200, dtype=dtype)
    assert found[0].dtype == dtype
    assert found[1].dtype == torch.float32
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert rms_ratio(a, b) < (forward if i < 2 else backward), i


def test_bf16_inputs_keep_the_state_in_fp32_over_4096_tokens():
    q, k, v, _, _ = inputs(4096, batch=1, heads=1, dtype=torch.bfloat16)
    decay = -torch.tensor([0.996]).log()
    _, state = lightning_attention(q, k, v, decay, output_final_state=True)
    assert rms_ratio(state, final_sum(k.double(), v.double(), decay.double())) < 1e-4


@pytest.mark.parametrize("cut", [0, 1, 64, 77, 129, 130])
def test_carried_state_equals_one_call(cut):
    q, k, v, decay, state = inputs(130)
    whole = lightning_attention(q, k, v, decay, initial_state=state, output_final_state=True)
    outputs = []
    for part in (slice(0, cut), slice(cut, 130)):
        o, state = lightning_attention(
            q[:, part], k[:, part], v[:, part], decay, initial_state=state, output_final_state=True
        )
        outputs.append(o)
    torch.testing.assert_close((torch.cat(outputs, 1), state), whole, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("size", "width"), [(16, 16), (48, 96), (96, 48), (192, 256), (5, 7)])
def test_head_sizes(size, width):
    q, k, v, decay, state = inputs(70, batch=1, size=size, width=width)
    results = [
        lightning_attention(q, k, v, decay, initial_state=state, output_final_state=True, impl=impl) for impl in IMPLS
    ]
    torch.testing.assert_close(*results, rtol=0, atol=1e-9)


@pytest.mark.parametrize("impl", IMPLS)
def test_packed_sequences_equal_separate_ones(impl):
    q, k, v, decay, _ = inputs(150, batch=1)
    states = inputs(1, batch=4)[4]
    bounds = [0, 1, 71, 71, 150]
    o, final = lightning_attention(
        q,
        k,
        v,
        decay,
        initial_state=states,
        output_final_state=True,
        cu_seqlens=torch.tensor(bounds),
        impl=impl,
    )
    assert final.shape == states.shape
    for i in range(4):
        part = slice(bounds[i], bounds[i + 1])
        one, last = lightning_attention(
            q[:, part],
            k[:, part],
            v[:, part],
            decay,
            initial_state=states[i : i + 1],
            output_final_state=True,
        )
        torch.testing.assert_close(o[:, part], one, rtol=0, atol=1e-10)
        torch.testing.assert_close(final[i : i + 1], last, rtol=0, atol=1e-10)


def test_empty_input():
    q, k, v, decay, state = inputs(0)
    o, final = lightning_attention(q, k, v, decay, initial_state=state, output_final_state=True)
    assert o.shape == (2, 0, 3, 32)
    assert torch.equal(final, state)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"q": torch.zeros(2, 8, 16)}, "q has shape .* must be"),
        ({"k": torch.zeros(2, 7, 3, 16)}, "k has shape .* must be"),
        ({"v": torch.zeros(2, 8, 2, 32)}, "v has shape .* must be"),
        ({"decay": torch.zeros(4)}, r"decay has shape \[4\].*\[3\]"),
        ({"decay": torch.tensor([0.0, -0.1, 0.0])}, "decay is .* at least 0"),
        ({"decay": torch.tensor([0.0, float("nan"), 0.0])}, "decay is .* finite"),
        ({"q": torch.zeros(2, 8, 3, 16, dtype=torch.int64)}, "q has dtype torch.int64"),
        ({"v": torch.zeros(2, 8, 3, 32, dtype=torch.bfloat16)}, "v has dtype torch.bfloat16"),
        ({"k": torch.zeros(2, 8, 3, 16, device="meta")}, "k is on meta"),
        ({"initial_state": torch.zeros(2, 3, 32, 16)}, "initial_state has shape"),
        ({"initial_state": torch.zeros(2, 3, 16, 32, dtype=torch.bfloat16)}, "initial_state has dtype"),
        ({"cu_seqlens": torch.tensor([0, 8])}, r"q has shape .* \[1, T, H, D\]"),
        ({"impl": "triton"}, "q is on cpu; impl='triton' runs on an NVIDIA GPU: move the tensors there"),
        ({"q": [[0.0]]}, "q is a list; it must be a torch.Tensor"),
        ({"impl": "trition"}, "impl is 'trition'; it must be one of auto, triton, torch, reference"),
    ],
)
def test_bad_input(changed, words):
    q, k, v, decay, _ = inputs(8, dtype=torch.float32)
    arguments = {"q": q, "k": k, "v": v, "decay": decay, **changed}
    with pytest.raises(ValueError, match=words):
        lightning_attention(**arguments)


@pytest.mark.parametrize("bounds", [[0, 5, 3, 8], [0, 5, 9], [0, 5], [1, 8], [0], [[0, 8]], [0.0, 8.0]])
def test_bad_cu_seqlens(bounds):
    q, k, v, decay, _ = inputs(8, batch=1)
    with pytest.raises(LongAtlasError, match="cu_seqlens"):
        lightning_attention(q, k, v, decay, cu_seqlens=torch.tensor(bounds))


def test_packed_states_have_one_row_per_sequence():
    q, k, v, decay, state = inputs(8, batch=1)
    with pytest.raises(LongAtlasError, match=r"initial_state has shape .* \[n, H, D, E\]"):
        lightning_attention(q, k, v, decay, initial_state=state, cu_seqlens=torch.tensor([0, 3, 8]))


def test_official_slopes():
    depth = 1 - 2 / 7 + 1e-5
    expected = torch.tensor([2.0 ** -(h + 1) * depth for h in range(8)])
    torch.testing.assert_close(decay_slopes(8, 2, 8), expected)
    six = [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]
    torch.testing.assert_close(decay_slopes(6, 0, 2), torch.tensor(six) * (1 + 1e-5))
    assert (decay_slopes(8, 7, 8) > 0).all()


def test_transnormer_slopes():
    expected = torch.tensor([8 * h / 6 * (1 - 3 / 4) for h in range(6)])
    torch.testing.assert_close(decay_slopes(6, 3, 4, kind="transnormer"), expected)


@pytest.mark.parametrize("kind", ["official", "transnormer"])
def test_slopes_are_finite_with_one_layer(kind):
    assert torch.isfinite(decay_slopes(5, 0, 1, kind=kind)).all()


@pytest.mark.parametrize(("layer", "n_layers", "kind"), [(2, 2, "official"), (-1, 2, "official"), (0, 1, "fla")])
def test_bad_slopes(layer, n_layers, kind):
    with pytest.raises(LongAtlasError, match=r"layer is|kind is"):
        decay_slopes(4, layer, n_layers, kind=kind)


def test_rates_stay_in_fp32_and_are_saved():
    config = DecoderConfig(d_model=32, n_heads=4, n_kv_heads=2, n_layers=3, layer=1)
    module = lightning_mixer(config, decay="transnormer")
    rates = decay_slopes(4, 1, 3, kind="transnormer")
    assert torch.equal(module.to(torch.bfloat16).decay, rates)
    assert torch.equal(module.state_dict()["decay"], rates)
    y, state = module(torch.randn(2, 5, 32, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    assert isinstance(state, LightningState)
    assert state.kv.dtype == torch.float32


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("length", [1, 70])
def test_autocast_leaves_the_sums_in_fp32(impl, length):
    q, k, v, decay, state = inputs(length, dtype=torch.bfloat16)
    expected = lightning_attention(q, k, v, decay, initial_state=state, output_final_state=True, impl=impl)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = lightning_attention(q, k, v, decay, initial_state=state, output_final_state=True, impl=impl)
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
