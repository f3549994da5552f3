"""Parallel Context Windows: against a dense mask, against vanilla with one window, and what is refused."""

import pytest
import torch

from longatlas import Decoder, DecoderConfig, LongAtlasError, UnsupportedError
from longatlas_plugins.context_processing.parallel_context_windows import merge_states, split_windows
from longatlas_plugins.context_processing.parallel_context_windows.reference import last_logits, layout

CONFIG = DecoderConfig(vocab_size=31, d_model=32, n_layers=3, n_heads=4, n_kv_heads=2)
SPEC = "parallel_context_windows:query_len=5:window=8"


def _decoder(spec: str = SPEC, **changes: int) -> Decoder:
    torch.manual_seed(0)
    return Decoder(DecoderConfig(**{**vars(CONFIG), **changes}), spec).double()


def _tokens(length: int, batch: int = 2) -> torch.Tensor:
    return torch.randint(31, (batch, length), generator=torch.Generator().manual_seed(length))


@pytest.mark.parametrize("length", [1, 5, 6, 12, 13, 14, 21, 29, 34, 60])
def test_equals_dense_attention_with_the_windows_mask(length: int) -> None:
    decoder, tokens = _decoder(), _tokens(length)
    expected = last_logits(decoder.core, tokens, query_len=5, window=8)
    torch.testing.assert_close(decoder(tokens)[0], expected, atol=1e-10, rtol=1e-10)


def test_gradients_equal_those_of_dense_attention() -> None:
    decoder, tokens = _decoder(), _tokens(34)
    names = [name for name, _ in decoder.named_parameters()]
    found = torch.autograd.grad(decoder(tokens)[0].sin().sum(), list(decoder.parameters()))
    dense = last_logits(decoder.core, tokens, query_len=5, window=8)
    expected = torch.autograd.grad(dense.sin().sum(), list(decoder.parameters()))
    for name, a, b in zip(names, found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-9, msg=name)


@pytest.mark.parametrize("length", [1, 5, 9, 13])
def test_one_window_is_the_plain_decoder(length: int) -> None:
    decoder, plain = _decoder(), _decoder("vanilla")
    tokens, more = _tokens(length), _tokens(4)
    answer, state = decoder(tokens)
    expected, plain_state = plain(tokens)
    torch.testing.assert_close(answer, expected[:, -1:], atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(decoder(more, state)[0], plain(more, plain_state)[0], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("length", [37, 32])
def test_later_tokens_see_all_windows(length: int) -> None:
    """Prompt and continuation in two calls equal one pass whose task tokens are query and continuation."""
    decoder, tokens = _decoder(), _tokens(length)
    _, state = decoder(tokens[:, :29])
    for t in range(29, length):
        logits, state = decoder(tokens[:, t : t + 1], state)
    expected = last_logits(decoder.core, tokens, query_len=5 + length - 29, window=8)
    torch.testing.assert_close(logits, expected, atol=1e-10, rtol=1e-10)


def test_windows_share_positions_and_the_task_follows_the_longest() -> None:
    positions, visible = layout(18, 2, 7)
    assert positions.tolist() == [*range(7), *range(7), 0, 1, 7, 8]
    assert not visible[8, 6]
    assert visible[8, 7]
    assert visible[16, :17].all()
    _, state = _decoder()(_tokens(26))
    cache = state.layers[0].mixer
    assert cache.positions.tolist() == [*range(8), *range(8), *range(5), *range(8, 13)]
    assert state.position == 13


def test_the_order_of_full_windows_does_not_matter() -> None:
    decoder, tokens = _decoder(), _tokens(29)
    swapped = torch.cat([tokens[:, 16:24], tokens[:, 8:16], tokens[:, :8], tokens[:, 24:]], 1)
    torch.testing.assert_close(decoder(swapped)[0], decoder(tokens)[0], atol=1e-10, rtol=1e-10)


def test_works_with_another_position_embedding() -> None:
    decoder = _decoder("alibi+" + SPEC)
    assert torch.isfinite(decoder(_tokens(40))[0]).all()


@pytest.mark.parametrize(
    ("spec", "changes", "reason"),
    [
        ("vanilla_segments:segment_len=3+" + SPEC, {}, "has kept 2 of 8 keys"),
        (SPEC, {"short_conv": 4}, "short convolution"),
    ],
)
def test_other_states_are_refused_with_the_reason(spec: str, changes: dict[str, int], reason: str) -> None:
    decoder = _decoder(spec, **changes)
    with pytest.raises(UnsupportedError, match=reason):
        decoder(_tokens(40))


def test_a_mixers_own_state_is_refused() -> None:
    states = [_decoder("vanilla")(_tokens(8))[1] for _ in range(2)]
    layer = states[0].layers[0]
    odd = states[0]._replace(layers=(layer._replace(mixer=layer.mixer.k), *states[0].layers[1:]))
    with pytest.raises(UnsupportedError, match="of type Tensor"):
        merge_states([odd, states[1]])


def test_bad_input() -> None:
    with pytest.raises(LongAtlasError, match="window 0"):
        split_windows(_tokens(9), query_len=5, window=0)
    with pytest.raises(LongAtlasError, match="query_len"):
        Decoder(CONFIG, "parallel_context_windows:query_len=0")
