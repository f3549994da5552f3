"""The doors of the slots' contract, each by a small method that needs it."""

import math

import pytest
import torch
from torch import nn

from longatlas import (
    Cost,
    Decoder,
    DecoderConfig,
    LongAtlasError,
    Memory,
    Method,
    Option,
    Position,
    UnsupportedError,
    losses,
    operation,
    parse_spec,
)
from longatlas.catalog import load_catalog
from longatlas.decoder.defaults import KVCache, grow_cache
from longatlas.decoder.segment_loop import SegmentLoop
from longatlas.decoder.state import DecoderState, tensors
from longatlas.flops import Call
from longatlas.ops import blockwise_attention, frequencies_of, rotary_embedding
from longatlas.testing import check_method, verify_method

CONFIG = DecoderConfig(vocab_size=31, d_model=32, n_layers=2, n_heads=4, train_length=64)


def method(fills, **changes):
    facts = {"name": "mine", "title": "Mine", "family": "misc/objectives", "summary": "One.", "fills": fills}
    return Method(**{**facts, **changes})


def build(what="vanilla", config=CONFIG, **changes):
    torch.manual_seed(0)
    return Decoder(config, what, **changes).double()


def tokens(length, batch=2, seed=1):
    return torch.randint(31, (batch, length), generator=torch.Generator().manual_seed(seed))


def read(decoder, sequence, *cuts):
    state, outputs = None, []
    for piece in sequence.tensor_split(cuts, 1):
        output, state = decoder(piece, state)
        outputs.append(output)
    return torch.cat(outputs, 1), state


# One clock


def leaves(state):
    """Everything in a state that is neither a tensor nor a container."""
    if isinstance(state, tuple | list):
        return [leaf for part in state for leaf in leaves(part)]
    return [] if isinstance(state, torch.Tensor) or state is None else [state]


@torch.no_grad()
def test_every_state_has_one_clock_which_is_the_decoders():
    for name, card in load_catalog().methods.items():
        if "context" in card.fills:
            continue
        _, state = build(parse_spec(name).with_lengths(16))(tokens(21))
        assert leaves(state) == [21], name


@torch.no_grad()
def test_a_sequence_may_begin_at_a_place():
    decoder = build(method({"position": lambda config: Position(embed=lambda x, pos: x + pos.to(x)[:, None])}))
    alone = tokens(9)
    found, state = decoder(alone, DecoderState(40))
    assert state.position == 49
    assert state.layers[0].mixer.positions.tolist() == list(range(40, 49))
    assert not torch.allclose(found, decoder(alone)[0])
    rotary = build()
    torch.testing.assert_close(rotary(alone, DecoderState(40))[0], rotary(alone)[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("spec", ["transformer_xl", "infini_attention", "memorizing_transformer"])
def test_a_place_inside_a_segment_is_refused_where_segments_are_counted(spec):
    decoder = build(f"{spec}:segment_len=8")
    with pytest.raises(LongAtlasError, match=r"begins at position 3 without a state, inside a segment of 8 tokens"):
        decoder(tokens(9), DecoderState(3))
    assert decoder(tokens(9), DecoderState(16))[1].position == 25


@torch.no_grad()
def test_a_stack_runs_from_embeddings():
    decoder, sequence = build(), tokens(20)
    x = decoder.core.embedding(sequence)
    hidden, state = decoder.core.run(x[:, :7])
    rest, state = decoder.core.run(x[:, 7:], state)
    expected, _ = decoder.hidden(sequence)
    torch.testing.assert_close(torch.cat([hidden, rest], 1), expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(decoder.head(expected), decoder(sequence)[0], rtol=0, atol=1e-12)
    with pytest.raises(LongAtlasError, match="the state holds 1 layers; this stack has 2"):
        decoder.core.run(x, DecoderState(3, state.layers[:1]))


# here


def heavy_hitters(config, *, budget):
    """Keeps the keys that queries have asked for most (H2O, arXiv:2306.14048): eviction by score, row by row."""

    def extend(k, v, past, here):
        seen = grow_cache(k, v, past and past[0], here)
        keys = seen.k.repeat_interleave(here.q.shape[2] // k.shape[2], 2)
        scores = torch.einsum("bthd,bshd->bhts", here.q, keys) * here.q.shape[-1] ** -0.5
        later = seen.positions.expand(len(k), -1)[:, None, None] > here.positions[:, None]
        asked = scores.masked_fill(later, -torch.inf).softmax(-1).sum((1, 2))  # [B, S]
        if past is not None:
            asked = asked + nn.functional.pad(past[1], (0, here.length))
        kept = asked.topk(min(budget, asked.shape[1])).indices.sort().values  # [B, budget]
        row = torch.arange(len(k))[:, None]
        cache = KVCache(seen.k[row, kept], seen.v[row, kept], seen.positions.expand(len(k), -1).gather(1, kept))
        return seen._replace(past=(cache, asked.gather(1, kept)))

    return Memory(extend)


HEAVY = method(
    {"memory": heavy_hitters},
    options=(Option("budget", 12, "keys kept", unit="tokens", min=1),),
    cost=Cost("T^2", "W"),
    departs=("segments",),
)


@torch.no_grad()
def test_a_memory_may_evict_by_score():
    decoder = build(HEAVY)
    for block in decoder.core.blocks:
        block.mixer.q.weight *= 30  # peaked attention
    _, state = read(decoder, tokens(40), *range(1, 40))
    cache, asked = state.layers[0].mixer
    assert cache.k.shape[:2] == asked.shape == (2, 12)
    assert not torch.equal(cache.positions[0], cache.positions[1]), "each row keeps its own"
    assert not torch.equal(cache.positions[0], torch.arange(28, 40)), "what was asked for, not what was last"
    short = tokens(12)
    torch.testing.assert_close(read(build(HEAVY), short, 3, 7)[0], build()(short)[0], rtol=0, atol=1e-10)


def test_a_memory_that_evicts_by_score_passes_the_kit():
    check_method(HEAVY)


def test_a_memory_of_version_0_1_is_told_the_new_form():
    with pytest.raises(LongAtlasError, match=r"it must be extend\(k, v, past, here\): `here` tells positions"):
        build(method({"memory": lambda config: Memory(lambda k, v, past: (k, v, past))}))


def test_an_objective_of_version_0_1_is_told_the_new_form():
    with pytest.raises(LongAtlasError, match=r"it must be objective\(decoder, tokens, labels=None\): labels \[B, T\]"):
        build(method({"objective": lambda config: lambda decoder, tokens: None}))


def test_segments_in_the_deviations_are_told_the_new_field():
    def extend(k, v, past, here):
        seen = grow_cache(k, v, past, here)
        return seen._replace(past=KVCache(k.clone(), v.clone(), here.positions))

    old = method({"memory": lambda config: Memory(extend)}, deviations="It forgets between segments.")
    failed = {r.check: r.detail for r in verify_method(old).failures}
    assert 'declares that by departs=("segments",), no longer by the word' in failed["segments_equal_whole"]
    with pytest.raises(LongAtlasError, match="unknown departure in method 'mine': 'segment'; did you mean 'segments'"):
        method({}, departs=("segment",))


# Positions by row, and keys that are not there for all


@torch.no_grad()
@pytest.mark.parametrize("spec", ["vanilla", "flash_attention", "alibi", "yarn:factor=4.0", "alibi+flash_attention"])
@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_a_padded_batch_equals_its_rows(spec, impl):
    decoder = build(spec, impl=impl)
    rows = [tokens(length, batch=1, seed=length) for length in (20, 13, 17)]
    padded = torch.cat([torch.cat([torch.zeros(1, 20 - r.shape[1], dtype=torch.long), r], 1) for r in rows])
    pads = torch.tensor([20 - r.shape[1] for r in rows])[:, None]
    positions, visible = torch.arange(20) - pads, torch.arange(20) >= pads
    whole, _ = decoder(padded, positions=positions.clamp(min=0), visible=visible)
    state, pieces = None, []
    for part in torch.arange(20).split([14, 1, 5]):
        how = {"positions": positions[:, part].clamp(min=0), "visible": visible[:, part]}
        logits, state = decoder(padded[:, part], state, **how)
        pieces.append(logits)
    for found in (whole, torch.cat(pieces, 1)):
        assert torch.isfinite(found).all()
        for i, row in enumerate(rows):
            torch.testing.assert_close(found[i, pads[i] :], decoder(row)[0][0], rtol=0, atol=1e-10)
    further, _ = decoder(tokens(2, batch=3), state, positions=(20 - pads) + torch.arange(2))
    for i, row in enumerate(rows):
        alone = decoder(torch.cat([row, tokens(2, batch=3)[[i]]], 1))[0][0, -2:]
        torch.testing.assert_close(further[i], alone, rtol=0, atol=1e-10)


@torch.no_grad()
def test_who_cannot_read_a_padded_batch_says_so():
    visible = torch.ones(2, 9, dtype=torch.bool)
    for spec in ("transformer_xl", "infini_attention", "streaming_llm"):
        with pytest.raises(UnsupportedError, match="rows of one length"):
            build(spec)(tokens(9), visible=visible)
    forgets = method({"memory": lambda config: Memory(lambda k, v, past, here: (k, v, None))})
    with pytest.raises(UnsupportedError, match=r"does not hand on which keys are padding \(Seen.visible\)"):
        build(forgets)(tokens(9), visible=visible)
    with pytest.raises(LongAtlasError, match=r"visible is \[2, 8\]; tokens are \[2, 9\]"):
        build()(tokens(9), visible=visible[:, 1:])


@torch.no_grad()
def test_a_memory_may_hide_keys_by_head():
    def extend(k, v, past, here):
        seen = grow_cache(k, v, past, here)
        first = (seen.positions >= 2).view(1, 1, -1).expand(1, 4, -1).clone()
        first[:, ::2] = True
        own = seen.positions == here.positions[:1]
        return seen._replace(visible=first | own)

    sequence, config = tokens(15), DecoderConfig(vocab_size=31, d_model=32, n_layers=1, n_heads=4)
    hides = build(method({"memory": lambda config: Memory(extend)}), config)

    def mask(b, h, q_idx, kv_idx):
        return (h % 2 == 0) | (kv_idx >= 2) | (kv_idx == 0)

    mask.per_head = True
    masked = build(method({"attention": lambda config: mask}), config)
    torch.testing.assert_close(hides(sequence)[0], masked(sequence)[0], rtol=0, atol=1e-10)


def test_heads_that_differ_by_a_mask_pass_the_kit():
    def strided(config):
        def mask(b, h, q_idx, kv_idx):
            return (q_idx - kv_idx) % (1 + h % 2) == 0

        mask.per_head = mask.constant = True
        return mask

    check_method(method({"attention": strided}))


# Position


class Learned(nn.Module):
    """Learned absolute positions, as in arXiv:1706.03762, section 3.5."""

    def __init__(self, config):
        super().__init__()
        self.table = nn.Embedding(8192, config.d_model)

    def embed(self, x, pos):
        return x + self.table(pos)


def test_an_embedding_with_weights_is_built_once_registered_moved_and_saved():
    learned = method({"position": Learned})
    decoder = build(learned)
    names = [name for name, _ in decoder.named_parameters() if "table" in name]
    assert names == ["core.position_module.table.weight"]
    decoder.loss(tokens(20)).backward()
    assert decoder.core.position_module.table.weight.grad[:19].abs().sum() > 0
    assert decoder.core.position_module.table.weight.dtype == torch.float64
    check_method(learned)


def test_drawn_places_move_what_turns_and_masks_count_tokens():
    """Randomised positions (arXiv:2305.16843): sorted places from a longer range, in training only."""

    def draw(length, generator):
        return torch.randperm(1000, generator=generator)[:length].sort().values

    def falling(score, b, h, q_idx, kv_idx):
        return score - 0.01 * (q_idx - kv_idx)

    rotated = Position(rotate=rotary_embedding(8), draw=draw)
    biased = Position(score_mod=falling, draw=draw)
    for position in (rotated, biased):
        decoder = build(method({"position": lambda config, position=position: position}))
        sequence = tokens(24)
        places = draw(24, torch.Generator().manual_seed(3))
        expected = decoder(sequence, positions=places.expand(2, -1))[0]  # causal by place, and places are sorted
        torch.testing.assert_close(decoder(sequence, places=places)[0], expected, rtol=0, atol=1e-10)
        assert not torch.allclose(expected, decoder(sequence)[0])
        first, again = (decoder.loss(sequence, generator=torch.Generator().manual_seed(3)) for _ in range(2))
        assert torch.equal(first, again)
        assert not torch.equal(first, decoder.loss(sequence, generator=torch.Generator().manual_seed(4)))
        assert torch.equal(decoder(sequence)[0], decoder(sequence)[0]), "inference never draws"
        with pytest.raises(LongAtlasError, match="places are drawn for whole sequences in training"):
            decoder(sequence, DecoderState(5), places=places)


def test_drawn_places_reach_mixers_that_rotate():
    places = torch.arange(0, 60, 2)
    found = build("infini_attention:segment_len=64")
    slow = build("position_interpolation:factor=1.0+infini_attention:segment_len=64")
    sequence = tokens(30)
    assert not torch.allclose(found(sequence, places=places)[0], found(sequence)[0])
    slow.load_state_dict(found.state_dict())
    torch.testing.assert_close(slow(sequence, places=places)[0], found(sequence, places=places)[0])


@torch.no_grad()
def test_frequencies_stretch_the_hosts_own():
    """Llama 3's base, Qwen's, and angles of a model's own; a quarter of each head turned, as in GPT-NeoX."""
    plain = DecoderConfig(vocab_size=31, d_model=32, n_layers=1, n_heads=4, head_size=16, rope_base=500000.0)
    assert build("vanilla", plain).core.blocks[0].mixer.q.weight.shape == (64, 32)
    q, k, v = (torch.randn(1, 9, 4, 16, dtype=torch.float64) for _ in range(3))
    same = DecoderConfig(d_model=32, n_heads=4, head_size=16, rope_theta=tuple(frequencies_of(plain).tolist()))
    for spec in ("vanilla", "ntk_rope:factor=4.0", "yarn:factor=4.0", "position_interpolation:factor=4.0"):
        for impl in ("auto", "reference"):
            o, _ = operation(spec, plain, impl=impl).mix(q, k, v)
            torch.testing.assert_close(operation(spec, same, impl=impl).mix(q, k, v)[0], o, rtol=0, atol=1e-10)
    part = DecoderConfig(d_model=32, n_heads=4, head_size=16, rope_theta=(1.0, 0.1))
    for impl in ("auto", "reference"):
        turned = operation("position_interpolation:factor=2.0", part, impl=impl).inner.position.rotate
        found, _ = turned(q, k, torch.arange(9))
        torch.testing.assert_close(found[..., 4:], q[..., 4:], rtol=0, atol=0)
        expected, _ = rotary_embedding(4, frequencies=torch.tensor([0.5, 0.05], dtype=torch.float64))(
            q[..., :4], k[..., :4], torch.arange(9)
        )
        torch.testing.assert_close(found[..., :4], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"head_size": -1}, "head_size is -1; it must be at least 1"),
        ({"rope_base": 1.0}, "rope_base is 1.0; it must be above 1"),
        ({"rope_theta": (1.0,) * 5}, "rope_theta has 5 angles; heads of size 8 have at most 4 pairs"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(changes, words):
    with pytest.raises(LongAtlasError, match=words):
        DecoderConfig(**{"d_model": 32, "n_heads": 4, **changes})


def test_position_rotates_one_way():
    with pytest.raises(LongAtlasError, match="rotate and frequencies, which rotate both"):
        Position(rotate=print, frequencies=print)


# Mixers under the position slot


@torch.no_grad()
@pytest.mark.parametrize("impl", ["torch", "reference"])
def test_a_mixer_that_names_rotate_is_combined_with_a_position_method(impl):
    """Within one segment Infini-attention is softmax attention, under whatever rotation."""
    stretched, plain = build("yarn:factor=4.0+infini_attention:segment_len=64", impl=impl), build("yarn:factor=4.0")
    plain.load_state_dict(stretched.state_dict(), strict=False)
    sequence = tokens(60)
    torch.testing.assert_close(stretched(sequence)[0], plain(sequence)[0], rtol=0, atol=1e-10)
    assert not torch.allclose(stretched(sequence)[0], build("infini_attention:segment_len=64")(sequence)[0])


def test_a_mixer_takes_no_bias_and_without_rotate_no_position():
    with pytest.raises(
        LongAtlasError, match="a mixer that takes the rotation of the position slot, which gives a score_"
    ):
        build("alibi+infini_attention")
    with pytest.raises(LongAtlasError, match="'yarn' and 'linear_transformer' both fill the slot 'position'"):
        build("yarn+linear_transformer")


# The operation alone


def operations():
    return [name for name, card in load_catalog().methods.items() if set(card.fills) & {*"", "position", "mixer"}] + [
        "sliding_window:window=9",
        "streaming_llm:window=9",
        "vanilla_segments:segment_len=8",
        "yarn:factor=4.0+streaming_llm:window=9",
        "flash_attention",
    ]


@torch.no_grad()
@pytest.mark.parametrize("spec", operations())
def test_the_operation_is_what_stands_between_the_projections(spec):
    combination = parse_spec(spec).with_lengths(16)
    config = DecoderConfig(vocab_size=31, d_model=32, n_layers=1, n_heads=4, n_kv_heads=2)
    generator = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(2, 40, h, 8, generator=generator, dtype=torch.float64) for h in (4, 2, 2))
    alone = operation(combination, config).double()
    assert not [name for name, _ in alone.named_parameters() if name.split(".")[-2] in ("q", "k", "v", "out")]
    whole, state = alone.mix(q, k, v)
    assert whole.shape == (2, 40, 4, 8)
    assert state.position == 40
    pieces, cut = [], None
    for part in torch.arange(40).split([1, 22, 17]):
        o, cut = alone.mix(q[:, part], k[:, part], v[:, part], cut)
        pieces.append(o)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=0, atol=1e-9)
    for a, b in zip(tensors(cut), tensors(state), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_a_method_without_an_operation_says_so():
    for spec, words in (("int8_weights", "fills model: it has no operation"), ("passage_selection", "fills context")):
        with pytest.raises(UnsupportedError, match=words):
            operation(spec, CONFIG)
    q = torch.zeros(1, 3, 4, 8)
    with pytest.raises(LongAtlasError, match=r"k has shape \[1, 3, 4, 4\]; it must be \[B, T, Hkv, D\]"):
        operation("vanilla", CONFIG).mix(q, q[..., :4], q)
    with pytest.raises(LongAtlasError, match=r"q has shape \[1, 3, 2, 8\]; it must be .* = \[B, T, 4, 8\]"):
        operation("vanilla", CONFIG).mix(q[:, :, :2], q[:, :, :2], q[:, :, :2])
    with pytest.raises(UnsupportedError, match="not told where its tokens stand"):
        operation("linear_transformer", CONFIG).mix(q, q, q, positions=torch.arange(3))


# A model that loops over segments


class Recurrent(SegmentLoop):
    """Memory tokens before each segment, and their successors after it (RMT, arXiv:2207.06881)."""

    def __init__(self, stack, *, slots, **loop):
        super().__init__(stack, **loop)
        width = stack.embedding.weight.shape[1]
        self.first, self.asking = (nn.Parameter(0.5 * torch.randn(1, slots, width)) for _ in range(2))

    def start(self, x):
        return self.first.expand(x.shape[0], -1, -1)

    def open(self, memory):
        return self.stack.run(memory)[1]

    def close(self, memory, inner, hidden):
        assert hidden is None
        return self.stack.run(self.asking.expand(memory.shape[0], -1, -1), inner)[0]


class Averaging(SegmentLoop):
    """Adds the mean of the last segment's outputs to the embeddings."""

    keeps_hidden = True

    def start(self, x):
        return torch.zeros_like(x[:, :1]) if x.shape[1] else x.new_zeros(x.shape[0], 1, x.shape[2])

    def read(self, x, inner, memory):
        return super().read(x + memory, inner, memory)

    def close(self, memory, inner, hidden):
        assert hidden.shape[1] == self.segment_len
        return hidden.mean(1, keepdim=True)


def recurrent(config, *, segment_len, bptt_depth):
    return lambda stack: Recurrent(stack, slots=2, segment_len=segment_len, bptt_depth=bptt_depth)


RECURRENT = method(
    {"model": recurrent},
    options=(
        Option("segment_len", 32, "tokens in a segment", unit="tokens", min=1),
        Option("bptt_depth", 0, "segments that keep their gradient", min=0),
    ),
    cost=Cost("T*N", "N"),
    state_size=lambda call, *, segment_len: call.keys_values(2 + call.end % segment_len),
)


@pytest.mark.parametrize("loop", [RECURRENT, "averaging"])
def test_a_segment_loop_passes_the_kit(loop):
    if loop == "averaging":
        builder = lambda config, *, segment_len: lambda stack: Averaging(stack, segment_len=segment_len)  # noqa: E731
        loop = method({"model": builder}, options=RECURRENT.options[:1], cost=Cost("T*N", "N"))
    check_method(loop)


@pytest.mark.parametrize(("depth", "reached"), [(0, 4), (1, 1), (2, 2), (3, 3)])
def test_the_gradient_goes_back_as_many_segments_as_asked(depth, reached):
    decoder = build(method({"model": recurrent}, options=RECURRENT.options))
    decoder.core.segment_len, decoder.core.bptt_depth = 8, depth
    x = decoder.core.stack.embedding(tokens(32, batch=1)).detach().requires_grad_()
    decoder.core.stack.embedding = type("Given", (nn.Module,), {"forward": lambda self, tokens: x})()
    logits, _ = decoder.core(tokens(32, batch=1))
    (slope,) = torch.autograd.grad(logits[:, -1].sum(), x)
    assert (slope.view(4, 8, 32).abs().sum((1, 2)) > 0).tolist() == [i >= 4 - reached for i in range(4)]


def test_a_model_methods_own_formulas_count():
    assert Decoder(CONFIG, RECURRENT).combination.parts[0].method.cost.state_growth == "constant"
    from longatlas.combination import as_combination, operation_flops, state_numbers

    call = Call(70, 0, 4, 8)
    assert state_numbers(as_combination(RECURRENT), call) == call.keys_values(2 + 70 % 32)
    assert operation_flops(as_combination(RECURRENT), call) is None, "not known, so not vanilla's"
    assert state_numbers(parse_spec("int8_weights+linear_transformer"), call) == 4 * 8 * 9


def test_a_wrapper_that_hides_the_stack_is_named():
    class Closed(nn.Module):
        def __init__(self, stack):
            super().__init__()
            self.inside = stack

        def forward(self, tokens, state):
            return self.inside(tokens, state)

    decoder = build(method({"model": lambda config: Closed}))
    with pytest.raises(UnsupportedError, match="'mine' wraps the decoder and offers no `hidden`"):
        decoder.hidden(tokens(3))
    with pytest.raises(UnsupportedError, match="'mine' wraps the decoder and is not told of visible"):
        decoder(tokens(3), visible=torch.ones(2, 3, dtype=torch.bool))


# Losses from inside


def test_losses_from_inside_are_added_to_the_objectives_and_to_nothing_else():
    class Balanced(nn.Module):
        def __init__(self, config):
            super().__init__()
            self.weight = nn.Parameter(torch.full((config.d_model,), 0.5))

        def forward(self, x):
            losses.add("balance", 3.0 * self.weight.square().mean())
            return x * self.weight

    decoder, sequence = build(method({"ffn": Balanced})), tokens(12)
    with losses.collect() as added:
        total = decoder.loss(sequence)
    assert added["balance"].item() == pytest.approx(2 * 3 * 0.25)  # of two layers
    bare = nn.functional.cross_entropy(decoder(sequence[:, :-1])[0].flatten(0, 1), sequence[:, 1:].flatten())
    assert total.item() == pytest.approx(bare.item() + 1.5)
    losses.add("nobody asks", torch.zeros(3))
    with losses.collect(), pytest.raises(LongAtlasError, match=r"loss 'spans' has shape \[3\]; it must be a scalar"):
        losses.add("spans", torch.zeros(3))


def test_labels_go_through_the_objective():
    def reversed_labels(config):
        return lambda decoder, tokens, labels=None: -decoder.logits_at(tokens, labels >= 0).sum()

    sequence, labels = tokens(9), torch.full((2, 9), -100)
    labels[:, 4] = 3
    decoder = build(method({"objective": reversed_labels}))
    assert decoder.loss(sequence, labels).item() == pytest.approx(-decoder(sequence)[0][:, 4].sum().item())
    plain = build()
    expected = nn.functional.cross_entropy(plain(sequence)[0][:, 4].float(), labels[:, 4])
    assert plain.loss(sequence, labels).item() == pytest.approx(expected.item())


# Costs


@pytest.mark.parametrize(
    ("cost", "time", "train", "state"),
    [
        (Cost("T^2/C", "T/C"), 2, 2, "linear"),
        (Cost("T*W", "W", train_time="T^2"), 1, 2, "constant"),
        (Cost("T^2/T", "T/T"), 1, 1, "constant"),
        (Cost("T*log(T)+T^1.5/C", "log(T)"), 1.5, 1.5, "log"),
    ],
)
def test_costs_take_quotients_and_a_time_of_training(cost, time, train, state):
    assert (cost.time_exponent, cost.train_exponent, cost.state_growth) == (time, train, state)


def test_a_constant_mask_is_laid_out_once():
    calls = []

    class Window(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("size", torch.tensor(40))

        def mask(self, b, h, q_idx, kv_idx):
            calls.append(1)
            return q_idx - kv_idx < self.size

    window = Window()
    mask = window.mask
    q = torch.randn(1, 300, 2, 8)
    first = blockwise_attention(q, q, q, mask_mod=mask)
    counted = len(calls)
    blockwise_attention(q, q, q, mask_mod=mask)
    assert len(calls) == 2 * counted
    Window.mask.constant = True
    for _ in range(3):
        torch.testing.assert_close(blockwise_attention(q, q, q, mask_mod=mask), first)
    assert len(calls) == 3 * counted
    assert math.isfinite(first.sum())
