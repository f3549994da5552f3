"""NTK-aware RoPE: the closed form of the base, both ends of the spectrum, plain RoPE at factor 1."""

import pytest
import torch

from longatlas import Decoder, DecoderConfig, LongAtlasError, operation
from longatlas.ops import rotary_embedding, rotary_frequencies
from longatlas.slots import Rotate
from longatlas_plugins.extrapolative_pes.ntk_rope import ntk_frequencies
from longatlas_plugins.extrapolative_pes.ntk_rope.reference import ntk_rotation


def ntk_rotary(size: int, factor: float) -> Rotate:
    return operation(f"ntk_rope:factor={factor}", DecoderConfig(n_heads=2, d_model=2 * size)).inner.position.rotate


CONFIG = DecoderConfig(vocab_size=31, d_model=32, n_layers=2, n_heads=4, train_length=16)


def test_the_first_frequency_stays_and_the_last_is_divided_by_the_factor() -> None:
    for size in (4, 8, 64, 128):
        before = rotary_frequencies(size)
        after = ntk_frequencies(before, factor=6.0)
        assert float(after[0]) == 1.0
        assert float(before[-1] / after[-1]) == pytest.approx(6.0, rel=1e-12)
        assert bool((before[1:] / after[1:] > 1).all())


@pytest.mark.parametrize("base", [10000.0, 500000.0])
def test_they_are_those_of_the_published_base(base: float) -> None:
    published = rotary_frequencies(128, base * 8 ** (128 / 126))
    found = ntk_frequencies(rotary_frequencies(128, base), factor=8.0)
    torch.testing.assert_close(found, published, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_factor_one_is_plain_rope_to_the_bit(dtype: torch.dtype) -> None:
    q = torch.randn(1, 50, 2, 8, dtype=torch.float64).to(dtype)
    places = torch.arange(50)
    assert torch.equal(ntk_rotary(8, factor=1.0)(q, q, places)[0], rotary_embedding(8)(q, q, places)[0])


@pytest.mark.parametrize("length", [0, 1, 63])
def test_torch_equals_reference(length: int) -> None:
    q, k = (torch.randn(2, length, 3, 12, dtype=torch.float64) for _ in range(2))
    places = torch.arange(length) + 777
    for a, b in zip(
        ntk_rotary(12, factor=5.0)(q, k, places),
        ntk_rotation(rotary_frequencies(12).tolist(), factor=5.0)(q, k, places),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


def test_bad_input() -> None:
    with pytest.raises(LongAtlasError, match="turns 1 pair"):
        ntk_frequencies(rotary_frequencies(2), factor=4.0)
    with pytest.raises(LongAtlasError, match="factor"):
        ntk_frequencies(rotary_frequencies(8), factor=0.0)
    with pytest.raises(LongAtlasError, match="factor"):
        Decoder(CONFIG, "ntk_rope:factor=0.9")
