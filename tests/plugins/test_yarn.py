"""YaRN: the ramp's three regions, the temperature's closed form, plain RoPE at factor 1."""

import math

import pytest
import torch

from longatlas import Decoder, DecoderConfig, LongAtlasError, operation
from longatlas.ops import rotary_embedding, rotary_frequencies
from longatlas.slots import Rotate
from longatlas_plugins.extrapolative_pes.yarn import yarn_frequencies, yarn_magnitude
from longatlas_plugins.extrapolative_pes.yarn.reference import yarn_rotation


def yarn_rotary(size: int, length: int, factor: float, alpha: float = 1.0, beta: float = 32.0) -> Rotate:
    config = DecoderConfig(n_heads=2, d_model=2 * size, train_length=length)
    return operation(f"yarn:factor={factor}:alpha={alpha}:beta={beta}", config).inner.position.rotate


CONFIG = DecoderConfig(vocab_size=31, d_model=64, n_layers=2, n_heads=4, train_length=128)


def test_fast_dimensions_stay_slow_ones_are_interpolated_and_the_ramp_is_between() -> None:
    length, factor = 4096, 16.0
    theta, found = rotary_frequencies(128), yarn_frequencies(rotary_frequencies(128), 4096, factor=factor)
    rotations = length * theta / (2 * math.pi)
    fast, slow = rotations > 32, rotations < 1
    between = ~fast & ~slow
    assert int(fast.sum()) > 10
    assert int(slow.sum()) > 10
    assert int(between.sum()) > 10
    assert torch.equal(found[fast], theta[fast])
    torch.testing.assert_close(found[slow], theta[slow] / factor, atol=0.0, rtol=1e-14)
    gamma = (rotations[between] - 1) / 31
    expected = (1 - gamma) * theta[between] / factor + gamma * theta[between]
    torch.testing.assert_close(found[between], expected, atol=0.0, rtol=1e-12)


def test_temperature_scales_every_score_by_one_over_t() -> None:
    """Both q and k carry sqrt(1/t): at equal positions q·k grows by (0.1 ln s + 1)^2, once and not twice."""
    q, k = (torch.randn(1, 9, 2, 16, dtype=torch.float64) for _ in range(2))
    places = torch.full((9,), 5)
    a, b = yarn_rotary(16, 64, factor=4.0)(q, k, places)
    expected = (q * k).sum(-1) * (0.1 * math.log(4) + 1) ** 2
    torch.testing.assert_close((a * b).sum(-1), expected, atol=1e-10, rtol=1e-10)
    assert yarn_magnitude(1.0) == 1.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_factor_one_is_plain_rope_to_the_bit(dtype: torch.dtype) -> None:
    q = torch.randn(1, 200, 2, 64, dtype=torch.float64).to(dtype)
    places = torch.arange(200)
    assert torch.equal(yarn_frequencies(rotary_frequencies(64), 512, factor=1.0), rotary_frequencies(64))
    assert torch.equal(yarn_rotary(64, 512, factor=1.0)(q, q, places)[0], rotary_embedding(64)(q, q, places)[0])


@pytest.mark.parametrize("length", [0, 1, 63])
def test_torch_equals_reference(length: int) -> None:
    q, k = (torch.randn(2, length, 3, 32, dtype=torch.float64) for _ in range(2))
    places = torch.arange(length) + 999
    found = yarn_rotary(32, 300, factor=5.0, alpha=2.0, beta=20.0)(q, k, places)
    expected = yarn_rotation(rotary_frequencies(32).tolist(), 300, factor=5.0, alpha=2.0, beta=20.0)(q, k, places)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


def test_the_train_length_of_the_decoder_sets_the_ramp() -> None:
    short, long = (yarn_frequencies(rotary_frequencies(64), length, factor=4.0) for length in (64, 65536))
    assert bool((long >= short).all())
    assert bool((long > short).any())


def test_bad_input() -> None:
    with pytest.raises(LongAtlasError, match="alpha must be"):
        Decoder(CONFIG, "yarn:alpha=32:beta=1")
    with pytest.raises(LongAtlasError, match="factor"):
        Decoder(CONFIG, "yarn:factor=0.5")
    with pytest.raises(LongAtlasError, match="factor"):
        yarn_frequencies(rotary_frequencies(8), 64, factor=0.5)
