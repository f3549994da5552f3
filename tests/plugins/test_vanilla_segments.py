"""Vanilla segments: a block-diagonal mask, and a memory that is empty at every border."""

import pytest
import torch

from longatlas import Decoder, DecoderConfig, LongAtlasError, operation
from longatlas.decoder.state import tensors
from longatlas.ops import dense_attention

CONFIG = DecoderConfig(vocab_size=31, d_model=32, n_layers=2, n_heads=4)


def build(spec, impl="auto"):
    torch.manual_seed(0)
    return Decoder(CONFIG, spec, impl=impl).double()


def tokens(length):
    return torch.randint(31, (2, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_a_segment_knows_nothing_of_the_one_before():
    decoder = build("vanilla_segments:segment_len=16")
    sequence = tokens(70)
    whole = decoder(sequence)[0]
    alone = torch.cat([build("vanilla")(piece)[0] for piece in sequence.split(16, 1)], 1)
    torch.testing.assert_close(whole, alone, rtol=0, atol=1e-10)
    changed = sequence.clone()
    changed[:, 31] = (changed[:, 31] + 1) % 31
    found = decoder(changed)[0]
    assert torch.equal(found[:, 32:], whole[:, 32:])
    assert not torch.allclose(found[:, 31], whole[:, 31])


@torch.no_grad()
def test_the_mixer_is_attention_with_a_block_diagonal_mask():
    alone = operation("vanilla_segments:segment_len=16", CONFIG)
    q, k, v = (torch.randn(2, 70, 4, 8, dtype=torch.float64) for _ in range(3))
    rotated = alone.inner.position.rotate(q, k, torch.arange(70))
    expected = dense_attention(*rotated, v, mask_mod=lambda b, h, q_idx, kv_idx: q_idx // 16 == kv_idx // 16)
    torch.testing.assert_close(alone.mix(q, k, v)[0], expected, rtol=0, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 15, 16, 17, 32, 40])
def test_the_state_holds_the_unfinished_segment_only(length):
    _, state = build("vanilla_segments:segment_len=16")(tokens(length))
    kept = {t.shape[1] for t in tensors(state) if t.ndim == 4}
    assert kept == {length % 16}


def test_a_segment_has_tokens():
    with pytest.raises(LongAtlasError, match="option 'segment_len' is 0; expected a whole number"):
        build("vanilla_segments:segment_len=0")
