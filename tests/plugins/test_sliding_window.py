"""Sliding window: W keys, itself included, in the mask and in the memory."""

import pytest
import torch

from longatlas import Decoder, DecoderConfig, LongAtlasError, Where
from longatlas.decoder.state import state_bytes, tensors
from longatlas.ops import dense_attention
from longatlas_plugins.efficient_attention.sliding_window.reference import windowed_attention

CONFIG = DecoderConfig(vocab_size=31, d_model=32, n_layers=1, n_heads=4)


def build(window, impl="auto", config=CONFIG):
    torch.manual_seed(0)
    return Decoder(config, f"sliding_window:window={window}", impl=impl).double()


def tokens(length):
    return torch.randint(31, (2, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("window", [1, 2, 17, 100])
def test_the_reference_is_attention_with_a_band_mask(window):
    q, k, v = (torch.randn(2, n, 3, 8, dtype=torch.float64) for n in (30, 50, 50))
    where = Where(torch.arange(20, 50), torch.arange(50))
    expected = dense_attention(q, k, v, mask_mod=lambda b, h, q_idx, kv_idx: kv_idx > q_idx - window)
    torch.testing.assert_close(windowed_attention(q, k, v, where, window), expected, rtol=0, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("impl", ["torch", "reference"])
def test_a_token_reaches_window_minus_one_tokens_ahead_and_no_farther(impl):
    decoder = build(8, impl)
    sequence = tokens(40)
    changed = sequence.clone()
    changed[:, 10] = (changed[:, 10] + 1) % 31
    differs = (decoder(sequence)[0] != decoder(changed)[0]).any(-1).all(0)
    assert differs.nonzero().flatten().tolist() == list(range(10, 18))


@pytest.mark.parametrize("window", [1, 16, 64])
@pytest.mark.parametrize("length", [1, 63, 200])
def test_torch_equals_reference(window, length):
    results = []
    for impl in ("torch", "reference"):
        decoder = build(window, impl)
        logits, state = decoder(tokens(length))
        logits.square().sum().backward()
        results.append([logits, *tensors(state), *(p.grad for p in decoder.parameters())])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("window", [1, 2, 16])
def test_the_memory_keeps_what_the_next_token_sees(window):
    decoder = build(window)
    state, outputs, sequence = None, [], tokens(50)
    for piece in sequence.split([1, 1, 20, 3, 25], 1):
        output, state = decoder(piece, state)
        outputs.append(output)
        kept = {t.shape[1] for t in tensors(state) if t.ndim == 4}
        assert kept == {min(window - 1, sum(o.shape[1] for o in outputs))}
    torch.testing.assert_close(torch.cat(outputs, 1), decoder(sequence)[0], rtol=0, atol=1e-10)


@torch.no_grad()
def test_evicted_keys_are_freed():
    """A slice would keep the whole segment alive."""
    decoder = build(16)
    assert state_bytes(decoder(tokens(1000))[1]) == state_bytes(decoder(tokens(100))[1])


def test_a_window_holds_the_token_itself():
    with pytest.raises(LongAtlasError, match=r"option 'window' is 0; expected .* at least 1"):
        build(0)
