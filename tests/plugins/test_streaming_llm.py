"""StreamingLLM: every token sees exactly the cache that it would see alone, with places counted in the cache."""

import pytest
import torch

from longatlas import Decoder, DecoderConfig, Where
from longatlas.decoder.state import tensors
from longatlas.ops import rotary_embedding
from longatlas_plugins.efficient_attention.streaming_llm.fast import attend
from longatlas_plugins.efficient_attention.streaming_llm.reference import attend as reference

CONFIG = DecoderConfig(vocab_size=31, d_model=32, n_layers=2, n_heads=4)


def build(spec, impl="auto"):
    torch.manual_seed(0)
    return Decoder(CONFIG, spec, impl=impl).double()


def tokens(length):
    return torch.randint(31, (2, length), generator=torch.Generator().manual_seed(1))


def literal_stream(q, k, v, rotate, sinks, window):
    """Token by token with a list as cache, evicting the oldest that is no sink."""
    cache, outputs = [], []
    for t in range(q.shape[1]):
        cache.append(t)
        if len(cache) > sinks + window:
            cache.pop(sinks)
        places = torch.arange(len(cache))
        keys, values = k[:, cache], v[:, cache]
        if rotate:
            keys = rotate(keys, keys, places)[1]
        query = q[:, t : t + 1]
        if rotate:
            query = rotate(query, query, places[-1:])[0]
        scores = torch.einsum("bthd,bshd->bhts", query, keys) / q.shape[-1] ** 0.5
        outputs.append(torch.einsum("bhts,bshd->bthd", scores.softmax(-1), values))
    return torch.cat(outputs, 1)


@pytest.mark.parametrize("attention", [reference, attend])
@pytest.mark.parametrize(("sinks", "window"), [(4, 16), (0, 16), (1, 1), (4, 1), (3, 300)])
@pytest.mark.parametrize("rotary", [True, False])
def test_it_is_the_stream_of_the_paper(attention, sinks, window, rotary):
    q, k, v = (torch.randn(2, 150, 2, 8, dtype=torch.float64) for _ in range(3))
    rotate = rotary_embedding(8) if rotary else None
    where = Where(torch.arange(150), torch.arange(150), rotate)
    found = attention(q, k, v, where, sinks=sinks, window=window)
    torch.testing.assert_close(found, literal_stream(q, k, v, rotate, sinks, window), rtol=0, atol=1e-10)


@pytest.mark.parametrize("position", ["", "alibi+", "ntk_rope+"])
@pytest.mark.parametrize("length", [1, 63, 200])
def test_torch_equals_reference(position, length):
    results = []
    for impl in ("torch", "reference"):
        decoder = build(f"{position}streaming_llm:sinks=3:window=20", impl)
        logits, state = decoder(tokens(length))
        logits.square().sum().backward()
        results.append([logits, *tensors(state), *(p.grad for p in decoder.parameters())])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@torch.no_grad()
def test_until_the_cache_is_full_it_is_vanilla_and_then_it_forgets():
    sequence = tokens(60)
    vanilla = build("vanilla")(sequence)[0]
    found = build("streaming_llm:sinks=4:window=20")(sequence)[0]
    torch.testing.assert_close(found[:, :24], vanilla[:, :24], rtol=0, atol=1e-10)
    assert not torch.allclose(found[:, 24:], vanilla[:, 24:])


@torch.no_grad()
def test_the_first_tokens_are_never_forgotten():
    decoder = build("streaming_llm:sinks=4:window=8")
    sequence = tokens(100)
    whole = decoder(sequence)[0]
    for place, seen in ((2, True), (5, False)):
        changed = sequence.clone()
        changed[:, place] = (changed[:, place] + 1) % 31
        assert torch.equal(decoder(changed)[0][:, -1], whole[:, -1]) is not seen
