"""LLM.int8(): exact integer products, outliers, straight-through gradients, and loading float weights."""

import pytest
import torch
from torch import nn

from longatlas import Decoder, DecoderConfig, LongAtlasError
from longatlas_plugins.misc.int8_weights import Int8Linear, fast, int8_linear, quantize_rows, weight_bytes

CONFIG = DecoderConfig(vocab_size=31, d_model=64, n_layers=2, n_heads=4)


def _case(rows: int, inner: int = 40, outer: int = 24, *, outliers: bool = True) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, inner, generator=generator, dtype=torch.float64)
    if outliers and rows:
        x[0, 3], x[-1, 7] = 60.0, -45.0
    weight, step = quantize_rows(torch.randn(outer, inner, generator=generator))
    return x, weight, step.squeeze(-1)


@pytest.mark.parametrize(("m", "k", "n"), [(1, 8, 8), (3, 7, 5), (64, 176, 33), (0, 8, 4), (5, 4096, 2)])
def test_integer_products_are_exact(m: int, k: int, n: int) -> None:
    a = torch.randint(-127, 128, (m, k), dtype=torch.int8)
    b = torch.randint(-127, 128, (n, k), dtype=torch.int8)
    assert torch.equal(fast.int_matmul(a, b).long(), a.long() @ b.long().t())
    a, b = torch.full_like(a, -127), torch.full_like(b, 127)
    assert torch.equal(fast.int_matmul(a, b).long(), a.long() @ b.long().t())


def test_products_are_exact_without_int_mm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "_has_exact_int_mm", lambda device: False)
    a = torch.randint(-127, 128, (3, 5000), dtype=torch.int8)
    assert torch.equal(fast.int_matmul(a, a).long(), a.long() @ a.long().t())


def test_rows_are_rounded_to_half_a_step() -> None:
    x = torch.randn(50, 30, dtype=torch.float64) * torch.logspace(-30, 30, 50, dtype=torch.float64)[:, None]
    integers, step = quantize_rows(x)
    assert (integers.abs().amax(1) == 127).all()
    assert ((integers * step - x).abs() <= 0.5000001 * step).all()
    zeros, step = quantize_rows(torch.zeros(2, 3))
    assert not zeros.any()
    assert torch.equal(step, torch.ones(2, 1))


@pytest.mark.parametrize("rows", [0, 1, 63])
@pytest.mark.parametrize(("threshold", "activations"), [(6.0, True), (1.0, True), (0.0, True), (6.0, False)])
def test_torch_equals_reference_with_gradients(rows: int, threshold: float, activations: bool) -> None:
    x, weight, scale = _case(rows)
    results = []
    for impl in ("torch", "reference"):
        leaf = x.clone().requires_grad_()
        y = int8_linear(leaf, weight, scale, threshold=threshold, activations=activations, impl=impl)
        y.sin().sum().backward()
        results.append((y, leaf.grad))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


def test_outliers_spare_the_other_activations_their_precision() -> None:
    x, weight, scale = _case(20)
    exact = x @ (weight.double() * scale.double()[:, None]).t()
    with_outliers, without = (int8_linear(x, weight, scale, threshold=t) - exact for t in (6.0, 0.0))
    step = 0.5 * x.masked_fill(x.abs() > 6, 0).abs().amax(1, keepdim=True) / 127
    bound = step * (weight.double() * scale.double()[:, None]).abs().sum(1)
    assert (with_outliers.abs() <= bound * 1.000001).all()
    assert without[0].abs().mean() > 5 * with_outliers[0].abs().mean()
    assert torch.equal(with_outliers[5], without[5])


def test_no_token_depends_on_another_ones_outlier() -> None:
    x, weight, scale = _case(9, outliers=False)
    loud = x.clone()
    loud[4] *= 100
    a, b = int8_linear(x, weight, scale), int8_linear(loud, weight, scale)
    rest = [i for i in range(9) if i != 4]
    torch.testing.assert_close(a[rest], b[rest], atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_input(dtype: torch.dtype) -> None:
    x, weight, scale = _case(33)
    y, exact = (int8_linear(x.to(dtype), weight, scale, impl=impl) for impl in ("torch", "reference"))
    assert y.dtype == dtype
    error = (y.double() - exact.double()).norm() / exact.double().norm()
    assert error < (1e-6 if dtype == torch.float32 else 5e-3)


def test_nan_is_not_laundered_and_infinity_is_an_outlier() -> None:
    x, weight, scale = _case(3)
    x[1, 0], x[2, 0] = float("nan"), float("inf")
    y = int8_linear(x, weight, scale)
    assert torch.isfinite(y[0]).all()
    assert torch.isnan(y[1]).all()
    assert not torch.isfinite(y[2]).any()


def test_a_float_state_dict_is_quantised_on_loading_and_its_own_one_round_trips() -> None:
    torch.manual_seed(0)
    plain, tokens = Decoder(CONFIG).double(), torch.randint(31, (2, 50))
    first, second = (Decoder(CONFIG, "int8_weights").double() for _ in range(2))
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    first.load_state_dict(plain.state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in plain.state_dict().items())
    layer = first.core.blocks[0].mixer.q
    weight = plain.core.blocks[0].mixer.q.weight.float()
    assert torch.equal(layer.integers, quantize_rows(weight)[0])
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        assert torch.equal(first(tokens)[0], second(tokens)[0])
        exact, found = plain(tokens)[0], first(tokens)[0]
    assert 1e-4 < (found - exact).norm() / exact.norm() < 0.05


def test_embedding_and_head_stay_and_the_weights_shrink() -> None:
    quantised, plain = Decoder(CONFIG, "int8_weights"), Decoder(CONFIG)
    assert isinstance(quantised.core.head, nn.Linear)
    linears = [m for m in quantised.core.blocks.modules() if isinstance(m, nn.Linear | Int8Linear)]
    assert len(linears) == 2 * 7
    assert all(type(m) is Int8Linear for m in linears)
    assert weight_bytes(quantised.core.blocks) < 0.28 * weight_bytes(plain.core.blocks)


def test_scales_stay_fp32_and_integers_stay_integers() -> None:
    decoder = Decoder(CONFIG, "int8_weights")
    scale = decoder.core.blocks[0].mixer.q.scale.clone()
    layer = decoder.bfloat16().core.blocks[0].mixer.q
    assert torch.equal(layer.scale, scale)
    assert layer.integers.dtype == decoder.state_dict()["core.blocks.0.mixer.q.weight"].dtype == torch.int8


def test_a_mixer_that_reads_a_weight_gets_it_scaled_back() -> None:
    linear = nn.Linear(16, 8, bias=False)
    layer = Int8Linear(linear).double()
    assert layer.weight.dtype == torch.float64
    torch.testing.assert_close(layer.weight.float(), linear.weight.detach(), atol=2e-3, rtol=0.0)
    assert layer.weight[0].abs().max() == pytest.approx(float(linear.weight[0].detach().abs().max()), rel=1e-6)


def test_a_bias_is_kept_and_trained() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(16, 8)
    layer = Int8Linear(linear)
    y = layer(torch.randn(2, 3, 16))
    y.sum().backward()
    assert torch.equal(layer.bias.grad, torch.full((8,), 6.0))
    assert y.shape == (2, 3, 8)


def test_bad_input() -> None:
    x, weight, scale = _case(4)
    with pytest.raises(LongAtlasError, match="auto, reference, torch"):
        int8_linear(x, weight, scale, impl="triton")
    with pytest.raises(LongAtlasError, match=r"float32 \[24, 40\]"):
        int8_linear(x, weight.float(), scale)
    with pytest.raises(LongAtlasError, match=r"\[\.\.\., 40\]"):
        int8_linear(x[:, :3], weight, scale)
    with pytest.raises(LongAtlasError, match="threshold is -1"):
        int8_linear(x, weight, scale, threshold=-1)
    with pytest.raises(LongAtlasError, match="threshold"):
        Decoder(CONFIG, "int8_weights:threshold=-1")
