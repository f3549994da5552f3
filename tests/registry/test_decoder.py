"""The decoder with its slots: combinations, clashes, state, and what builders may return."""

import pytest
import torch
from torch import nn

from longatlas import (
    Attention,
    Context,
    Cost,
    Decoder,
    DecoderConfig,
    LongAtlasError,
    Memory,
    Method,
    Option,
    Position,
    operation,
)
from longatlas.combination import Combination, Part
from longatlas.decoder.defaults import grow_cache
from longatlas.decoder.state import here, state_bytes, tensors
from longatlas.ops import blockwise_attention, dense_attention, rotary_embedding
from longatlas.testing import check_method

CONFIG = DecoderConfig(vocab_size=31, d_model=32, n_layers=2, n_heads=4)


def method(fills, **changes):
    facts = {"name": "mine", "title": "Mine", "family": "misc/objectives", "summary": "One.", "fills": fills}
    return Method(**{**facts, **changes})


def build(what="vanilla", config=CONFIG, **changes):
    torch.manual_seed(0)
    return Decoder(config, what, **changes).double()


def tokens(length, batch=2):
    return torch.randint(31, (batch, length), generator=torch.Generator().manual_seed(1))


def read(decoder, sequence, *cuts):
    state, outputs = None, []
    for piece in sequence.tensor_split(cuts, 1):
        output, state = decoder(piece, state)
        outputs.append(output)
    return torch.cat(outputs, 1), state


@torch.no_grad()
def test_a_combination_is_the_sum_of_its_parts():
    sequence = tokens(90)
    whole = build("yarn:factor=8+sliding_window:window=16")(sequence)[0]
    assert not torch.allclose(whole, build("yarn:factor=8")(sequence)[0])
    assert not torch.allclose(whole, build("sliding_window:window=16")(sequence)[0])
    wide = build("yarn:factor=8+sliding_window:window=90")(sequence)[0]
    torch.testing.assert_close(wide, build("yarn:factor=8")(sequence)[0], rtol=0, atol=1e-10)
    bare = build("yarn:factor=1+sliding_window:window=16")(sequence)[0]
    torch.testing.assert_close(bare, build("sliding_window:window=16")(sequence)[0], rtol=0, atol=1e-10)


def test_clashing_slots_are_refused_with_both_names():
    with pytest.raises(LongAtlasError, match="'yarn' and 'alibi' both fill the slot 'position'"):
        build("yarn+alibi")


def test_an_unknown_impl_names_those_that_exist():
    with pytest.raises(LongAtlasError, match="method 'yarn' has no impl 'triton'; it has: torch, reference"):
        build("yarn", impl="triton")


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"n_heads": 5}, "d_model 32 is not divisible by n_heads 5"), ({"n_kv_heads": 3}, "divisible by n_kv_heads 3")],
)
def test_shapes_that_do_not_divide(changes, words):
    with pytest.raises(LongAtlasError, match=words):
        DecoderConfig(**{"d_model": 32, **changes})


@pytest.mark.parametrize(
    ("slot", "words"),
    [
        ("position", "it must have one of embed, rotate, score_mod, frequencies, draw"),
        ("memory", r"it must have extend\(k, v, past, here\)"),
        ("attention", r"return longatlas.Attention\(...\)"),
        ("mixer", "it must return a torch.nn.Module"),
        ("ffn", "it must return a torch.nn.Module"),
        ("context", r"it must have split\(tokens\)"),
    ],
)
def test_a_builder_that_returns_something_else_is_told_what_to_return(slot, words):
    with pytest.raises(
        LongAtlasError, match=f"{slot} builder returned 3; .*{words}|{slot} builder returned 3; {words}"
    ):
        build(method({slot: lambda config: 3}))


def test_attention_is_a_forward_or_a_mask():
    for arguments in ({}, {"forward": print, "mask_mod": print}):
        with pytest.raises(LongAtlasError, match="exactly one of the two"):
            Attention(**arguments)


@torch.no_grad()
def test_the_state_of_a_short_convolution_is_carried():
    config = DecoderConfig(vocab_size=31, d_model=32, n_layers=2, n_heads=4, short_conv=4)
    decoder = build(config=config)
    sequence = tokens(40)
    plain = build()(sequence)[0]
    torch.testing.assert_close(decoder(sequence)[0], plain, rtol=0, atol=1e-10)  # it starts as the identity
    for block in decoder.core.blocks:
        nn.init.normal_(block.conv.weight)
    whole, state = decoder(sequence)
    assert not torch.allclose(whole, plain)
    assert state.layers[0].conv.shape == (2, 3, 32)
    for cuts in ((1,), (2, 3, 4), (17, 38)):
        torch.testing.assert_close(read(decoder, sequence, *cuts)[0], whole, rtol=0, atol=1e-10)
    later = sequence.clone()
    later[:, 20] = (later[:, 20] + 1) % 31
    assert torch.equal(decoder(later)[0][:, :20], whole[:, :20])


@torch.no_grad()
@pytest.mark.parametrize("spec", ["vanilla", "flash_attention", "sliding_window:window=8", "streaming_llm:window=8"])
@pytest.mark.parametrize("impl", ["torch", "reference"])
def test_grouped_heads_are_repeated_heads(spec, impl):
    config = DecoderConfig(vocab_size=31, d_model=32, n_layers=1, n_heads=4, n_kv_heads=2)
    grouped, full = build(spec, config, impl=impl), build(spec, DecoderConfig(31, 32, 1, 4), impl=impl)
    weights = grouped.state_dict()
    for name in ("k", "v"):
        key = f"core.blocks.0.mixer.{name}.weight"
        weights[key] = weights[key].view(2, 8, 32).repeat_interleave(2, 0).reshape(32, 32)
    full.load_state_dict(weights)
    sequence = tokens(40)
    found, state = read(grouped, sequence, 7, 30)
    torch.testing.assert_close(found, full(sequence)[0], rtol=0, atol=1e-10)
    kept = [t for t in tensors(state) if t.ndim == 4]
    assert {t.shape[2] for t in kept} == {2}


@torch.no_grad()
def test_an_embed_position_gets_absolute_places_once():
    seen = []

    def embed(x, pos):
        seen.append(pos.tolist())
        return x + pos.to(x)[:, None] * 0.01

    decoder = build(method({"position": lambda config: Position(embed=embed)}))
    sequence = tokens(12)
    found, _ = read(decoder, sequence, 5, 6)
    assert seen == [[0, 1, 2, 3, 4], [5], [6, 7, 8, 9, 10, 11]]
    torch.testing.assert_close(found, decoder(sequence)[0], rtol=0, atol=1e-10)


@torch.no_grad()
def test_a_score_mod_gets_absolute_places_and_works_with_a_window():
    def falling(score, b, h, q_idx, kv_idx):
        return score - 0.1 * (h + 1) * (q_idx - kv_idx)

    def place(config):
        return Position(score_mod=falling)

    def windowed(config):
        return lambda b, h, q_idx, kv_idx: q_idx - kv_idx < 9

    both = build(method({"position": place, "attention": windowed}))
    sequence = tokens(50)
    whole = both(sequence)[0]
    torch.testing.assert_close(read(both, sequence, 3, 20)[0], whole, rtol=0, atol=1e-10)
    assert not torch.allclose(whole, build(method({"position": place}))(sequence)[0])
    reference = build(method({"position": place, "attention": windowed}), impl="reference")
    torch.testing.assert_close(whole, reference(sequence)[0], rtol=0, atol=1e-10)


@torch.no_grad()
def test_a_bare_mask_mod_is_enough_for_attention():
    bare = build(method({"attention": lambda config: lambda b, h, q_idx, kv_idx: q_idx - kv_idx < 16}))
    sequence = tokens(60)
    expected = build("sliding_window:window=16")(sequence)[0]
    torch.testing.assert_close(bare(sequence)[0], expected, rtol=0, atol=1e-10)


def test_parameters_of_a_slot_are_trained():
    class Slope(nn.Module):
        def __init__(self):
            super().__init__()
            self.slope = nn.Parameter(torch.tensor(0.1))

        def score_mod(self, score, b, h, q_idx, kv_idx):
            return score - self.slope * (q_idx - kv_idx)

    decoder = build(method({"position": lambda config: Slope()}))
    decoder.loss(tokens(40)).backward()
    slopes = [p for name, p in decoder.named_parameters() if name.endswith("slope")]
    assert len(slopes) == 2
    assert all(p.grad.abs() > 0 for p in slopes)


def sink_cache(config, *, sinks, window):
    """The third-party memory that the README promises to be enough."""
    import torch

    def extend(k, v, past, here):  # [B, T, H, D]
        if past is not None:
            k, v = torch.cat([past[0], k], 1), torch.cat([past[1], v], 1)
        kept = [torch.cat([x[:, :sinks], x[:, sinks:][:, -window:]], 1) for x in (k, v)]
        return k, v, tuple(kept)

    return Memory(extend, raw_keys=True)


THIRD_PARTY = Method(
    name="third_party_streaming",
    title="StreamingLLM",
    paper="2309.17453",
    family="efficient_attention/local/global_local_hybrid",
    fills={"memory": sink_cache},
    summary="Keeps the first tokens and a window of recent ones.",
    options=(
        Option("sinks", 4, "first tokens kept", min=0),
        Option("window", 1024, "recent tokens kept", unit="tokens", min=1),
    ),
    cost=Cost(time="T*W", state="W"),
    deviations="Evicts between calls, not after every token.",
    departs=("segments",),
)


def test_a_memory_of_raw_keys_passes_the_conformance_kit():
    check_method(THIRD_PARTY)


@torch.no_grad()
def test_raw_keys_are_rotated_by_their_place_in_the_cache():
    """As long as nothing is evicted it is vanilla, whatever the cut; afterwards its state stays put."""
    decoder = build(THIRD_PARTY)
    sequence = tokens(60)
    torch.testing.assert_close(read(decoder, sequence, 7, 8)[0], build()(sequence)[0], rtol=0, atol=1e-10)
    state, sizes = None, []
    for piece in tokens(6000, batch=1).split(1000, 1):
        _, state = decoder(piece, state)
        sizes.append(state_bytes(state))
    assert sizes[1] == sizes[-1] == 2 * 2 * 1028 * 32 * 8


@torch.no_grad()
def test_after_an_eviction_distances_are_those_in_the_cache():
    small = Part(THIRD_PARTY, {"sinks": 2, "window": 6})
    mixer = operation(Combination((small,)), CONFIG)
    q, k, v = (torch.randn(1, 30, 4, 8, dtype=torch.float64) for _ in range(3))
    rotate, cache, state = rotary_embedding(8), [], None
    for t in range(30):
        found, state = mixer.mix(q[:, t : t + 1], k[:, t : t + 1], v[:, t : t + 1], state)
        cache = [*cache[:2], *cache[2:][-6:], t]
        places = torch.arange(len(cache))
        keys, query = rotate(k[:, cache], k[:, cache], places)[0], rotate(q[:, [t]], q[:, [t]], places[-1:])[0]
        torch.testing.assert_close(found, dense_attention(query, keys, v[:, cache]), rtol=0, atol=1e-10)


@torch.no_grad()
def test_a_context_answers_with_the_last_token_and_then_goes_on():
    def ends(config):
        from longatlas import Prompt

        return Context(lambda t: Prompt((), torch.cat([t[:, :4], t[:, -4:]], 1)))

    decoder = build(method({"context": ends}))
    sequence = tokens(30)
    answer, state = decoder(sequence)
    kept = torch.cat([sequence[:, :4], sequence[:, -4:]], 1)
    plain, plain_state = build()(kept)
    torch.testing.assert_close(answer, plain[:, -1:], rtol=0, atol=1e-10)
    further = build()(sequence[:, :3], plain_state)[0]
    torch.testing.assert_close(decoder(sequence[:, :3], state)[0], further, rtol=0, atol=1e-10)


@torch.no_grad()
def test_a_call_leaves_its_state_as_it_was():
    decoder = build()
    _, state = decoder(tokens(10))
    before = [t.clone() for t in tensors(state)]
    decoder(tokens(5), state)
    assert all(torch.equal(a, b) for a, b in zip(before, tensors(state), strict=True))


def test_state_bytes_count_the_whole_storage_once():
    big = torch.zeros(1000, dtype=torch.float32)
    assert state_bytes((big[:1], big[5:7], {"x": torch.zeros(2, dtype=torch.float64)}, None, 3)) == 4016
    zeros = torch.zeros(1, 3, 2, 4)
    seen = grow_cache(zeros, zeros.clone(), None, here(0, zeros))
    assert state_bytes(seen.past) == 2 * 3 * 2 * 4 * 4 + 3 * 8


def test_no_ffn_when_its_width_is_zero():
    decoder = build(config=DecoderConfig(vocab_size=31, d_model=32, n_layers=1, n_heads=4, ffn_hidden=0))
    assert decoder.core.blocks[0].ffn is None
    assert decoder(tokens(5))[0].shape == (2, 5, 31)


@pytest.mark.parametrize("spec", ["vanilla", "flash_attention", "sliding_window", "yarn+sliding_window"])
def test_an_empty_call_changes_nothing(spec):
    decoder = build(spec)
    logits, state = decoder(tokens(0))
    assert logits.shape == (2, 0, 31)
    torch.testing.assert_close(decoder(tokens(9), state)[0], decoder(tokens(9))[0], rtol=0, atol=1e-10)
    assert blockwise_attention(*(torch.zeros(1, 0, 2, 4) for _ in range(3))).shape == (1, 0, 2, 4)
