"""Position Interpolation: positions divided by the factor, nothing else."""

import pytest
import torch

from longatlas import Decoder, DecoderConfig, LongAtlasError, operation
from longatlas.ops import rotary_embedding, rotary_frequencies
from longatlas.slots import Rotate
from longatlas_plugins.extrapolative_pes.position_interpolation import METHOD
from longatlas_plugins.extrapolative_pes.position_interpolation.reference import interpolated_rotation

CONFIG = DecoderConfig(vocab_size=31, d_model=32, n_layers=2, n_heads=4, train_length=16)


def interpolated(factor: float) -> Rotate:
    return operation(f"position_interpolation:factor={factor}", CONFIG).inner.position.rotate


def _qk(length: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, length, 4, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    return q.to(dtype), k.to(dtype)


@pytest.mark.parametrize("length", [0, 1, 63])
def test_torch_equals_reference(length: int) -> None:
    q, k = _qk(length)
    places = torch.arange(length) + 1000
    found = interpolated(3.0)(q, k, places)
    expected = interpolated_rotation(rotary_frequencies(8).tolist(), factor=3.0)(q, k, places)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


def test_position_m_turns_as_position_m_over_s_did() -> None:
    q, k = _qk(20)
    plain = rotary_embedding(8)(q, k, torch.arange(20))
    stretched = interpolated(4.0)(q, k, 4 * torch.arange(20))
    for a, b in zip(plain, stretched, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_factor_one_is_plain_rope_to_the_bit(dtype: torch.dtype) -> None:
    q, k = _qk(50, dtype)
    places = torch.arange(50)
    for a, b in zip(
        interpolated(1.0)(q, k, places),
        rotary_embedding(8)(q, k, places),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_scores_depend_on_distance_only() -> None:
    q, k = _qk(30)
    rotate = interpolated(8.0)
    near = torch.einsum("bthd,bshd->bhts", *rotate(q, k, torch.arange(30)))
    far = torch.einsum("bthd,bshd->bhts", *rotate(q, k, torch.arange(30) + 5000))
    torch.testing.assert_close(near, far, atol=1e-9, rtol=1e-9)


def test_a_vanilla_decoders_weights_fit() -> None:
    vanilla, stretched = Decoder(CONFIG), Decoder(CONFIG, "position_interpolation")
    stretched.load_state_dict(vanilla.state_dict())
    assert METHOD.training == "retrofit"


def test_a_factor_below_one_is_an_error() -> None:
    with pytest.raises(LongAtlasError, match="factor"):
        Decoder(CONFIG, "position_interpolation:factor=0.5")
