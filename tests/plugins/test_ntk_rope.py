"""NTK-aware RoPE: the closed form of the base, both ends of the spectrum, plain RoPE at factor 1."""

import pytest
import torch

from longatlas import Decoder, DecoderConfig, LongAtlasError
from longatlas.ops import rotary_embedding, rotary_frequencies
from longatlas_plugins.extrapolative_pes.ntk_rope import ntk_base, ntk_rotary
from longatlas_plugins.extrapolative_pes.ntk_rope.reference import ntk_rotation

CONFIG = DecoderConfig(vocab_size=31, d_model=32, n_layers=2, n_heads=4, train_length=16)


def test_the_first_frequency_stays_and_the_last_is_divided_by_the_factor() -> None:
    for size in (4, 8, 64, 128):
        before = rotary_frequencies(size)
        after = rotary_frequencies(size, ntk_base(size, factor=6.0))
        assert float(after[0]) == 1.0
        assert float(before[-1] / after[-1]) == pytest.approx(6.0, rel=1e-12)
        assert bool((before[1:] / after[1:] > 1).all())


def test_known_base() -> None:
    assert ntk_base(128, factor=8.0) == pytest.approx(10000 * 8 ** (128 / 126))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_factor_one_is_plain_rope_to_the_bit(dtype: torch.dtype) -> None:
    q = torch.randn(1, 50, 2, 8, dtype=torch.float64).to(dtype)
    places = torch.arange(50)
    assert torch.equal(ntk_rotary(8, factor=1.0)(q, q, places)[0], rotary_embedding(8)(q, q, places)[0])


@pytest.mark.parametrize("length", [0, 1, 63])
def test_torch_equals_reference(length: int) -> None:
    q, k = (torch.randn(2, length, 3, 12, dtype=torch.float64) for _ in range(2))
    places = torch.arange(length) + 777
    for a, b in zip(ntk_rotary(12, factor=5.0)(q, k, places), ntk_rotation(12, factor=5.0)(q, k, places), strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


def test_bad_input() -> None:
    with pytest.raises(LongAtlasError, match="head_size is 2"):
        ntk_base(2, factor=4.0)
    with pytest.raises(LongAtlasError, match="factor"):
        ntk_base(8, factor=0.0)
    with pytest.raises(LongAtlasError, match="factor"):
        Decoder(CONFIG, "ntk_rope:factor=0.9")
