"""ALiBi: the paper's slopes, the bias written out, and decoding."""

import copy

import pytest
import torch
from torch import nn

from longatlas import Decoder, DecoderConfig, LongAtlasError
from longatlas.ops import blockwise_attention
from longatlas_plugins.extrapolative_pes.alibi import LinearBias, alibi_slopes, reference

CONFIG = DecoderConfig(vocab_size=31, d_model=48, n_layers=2, n_heads=6, n_kv_heads=2, train_length=32)


def test_slopes_of_the_paper() -> None:
    eighths = [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
    assert alibi_slopes(8).tolist() == eighths
    assert alibi_slopes(16)[1::2].tolist() == pytest.approx(eighths, abs=1e-15)
    assert float(alibi_slopes(16)[0]) == pytest.approx(2**-0.5)


def test_slopes_of_other_numbers_of_heads_come_from_twice_the_power_of_two() -> None:
    assert alibi_slopes(3).tolist() == pytest.approx([2**-4, 2**-8, 2**-2])
    sixteenth = alibi_slopes(16).tolist()
    assert alibi_slopes(12).tolist() == pytest.approx([*alibi_slopes(8).tolist(), *sixteenth[0:8:2]])


@pytest.mark.parametrize("heads", [1, 2, 3, 5, 6, 7, 12, 20, 32])
def test_slopes_equal_the_reference(heads: int) -> None:
    assert alibi_slopes(heads).tolist() == pytest.approx(reference.slopes(heads), rel=1e-12)


def test_no_heads_is_an_error() -> None:
    with pytest.raises(LongAtlasError, match="n_heads is 0"):
        alibi_slopes(0)


def test_attention_equals_the_bias_written_out() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 37, 3, 8, dtype=torch.float64) for _ in range(3))
    expected = torch.zeros_like(v)
    for head, slope in enumerate(reference.slopes(3)):
        for i in range(37):
            scores = torch.stack(
                [(q[:, i, head] * k[:, j, head]).sum(-1) / 8**0.5 - slope * (i - j) for j in range(i + 1)], 1
            )
            expected[:, i, head] = torch.einsum("bs,bse->be", scores.softmax(1), v[:, : i + 1, head])
    o = blockwise_attention(q, k, v, score_mod=LinearBias(3).score_mod, block_size=16)
    torch.testing.assert_close(o, expected, atol=1e-10, rtol=1e-10)


def test_slopes_stay_exact_in_bf16_and_follow_a_copy() -> None:
    decoder = copy.deepcopy(Decoder(CONFIG, "alibi")).bfloat16()
    slopes = [m.slopes for m in decoder.modules() if isinstance(m, LinearBias)]
    assert len(slopes) == CONFIG.n_layers
    assert all(torch.equal(s, alibi_slopes(6)) for s in slopes)
    assert not [name for name in decoder.state_dict() if "slopes" in name]


def test_penalty_falls_with_distance_only() -> None:
    """Equal keys: weights are softmax(-m * distance), whatever the absolute position."""
    mod = LinearBias(2).double().score_mod
    assert isinstance(mod.__self__, nn.Module)
    q = k = torch.zeros(1, 5, 2, 4, dtype=torch.float64)
    v = torch.eye(5, dtype=torch.float64)[None, :, None].expand(1, 5, 2, 5)
    far = torch.arange(5) + 10**6
    o = blockwise_attention(q, k, v, score_mod=mod, q_positions=far, k_positions=far)
    for head, slope in enumerate([2**-4, 2**-8]):
        expected = torch.softmax(-slope * torch.arange(4, -1, -1, dtype=torch.float64), 0)
        torch.testing.assert_close(o[0, 4, head], expected, atol=1e-12, rtol=1e-12)
