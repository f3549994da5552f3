"""Every formula for floating-point operations against torch's counter, on the reference read token by token."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from longatlas import Decoder, DecoderConfig, parse_spec
from longatlas.catalog import load_catalog
from longatlas.combination import operation_flops
from longatlas.flops import Call, causal_softmax, segment_pairs, windowed_pairs
from longatlas.measure.flops import cell_flops, linear_weights

TOKENS = 23
CONFIG = DecoderConfig(vocab_size=16, d_model=32, n_layers=2, n_heads=2, ffn_hidden=0)
GROUPED = DecoderConfig(vocab_size=16, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, ffn_hidden=0)
# Options that make 23 tokens cross windows and segments.
SPECS = {
    "alibi": ("alibi",),
    "flash_attention": ("flash_attention",),
    "infini_attention": (
        "infini_attention:segment_len=5",
        "infini_attention:segment_len=4:update=delta",
        "infini_attention:segment_len=30:update=delta",
    ),
    "int8_weights": (),
    "lightning_attention2": ("lightning_attention2",),
    "linear_transformer": ("linear_transformer",),
    "memorizing_transformer": (
        "memorizing_transformer:segment_len=4:memory_size=6:top_k=3",
        "memorizing_transformer:segment_len=5:memory_size=10:top_k=20:memory_layer=0:xl_cache=false",
    ),
    "ntk_rope": ("ntk_rope",),
    "parallel_context_windows": (),
    "passage_selection": (),
    "position_interpolation": ("position_interpolation",),
    "sliding_window": ("sliding_window:window=7",),
    "streaming_llm": ("streaming_llm:sinks=2:window=5",),
    "transformer_xl": (
        "transformer_xl:segment_len=5:mem_len=5:cache=kv",
        "transformer_xl:segment_len=4:mem_len=9:cache=kv",
    ),
    "vanilla": ("vanilla", "yarn+sliding_window:window=9"),
    "vanilla_segments": ("vanilla_segments:segment_len=5",),
    "yarn": ("yarn",),
}


ALL = [spec for specs in SPECS.values() for spec in specs]


def counted(spec: str, config: DecoderConfig) -> float:
    """What torch counts when the reference's operation reads the tokens one by one."""
    torch.manual_seed(0)
    decoder = Decoder(config, spec, impl="reference").double()
    state, total = None, 0.0
    with torch.no_grad():
        for token in torch.zeros(1, TOKENS, dtype=torch.long).split(1, 1):
            with FlopCounterMode(display=False) as counter:
                _, state = decoder(token, state)
            total += counter.get_total_flops()
    return total - 2 * TOKENS * linear_weights(decoder)


def unseen(spec: str, config: DecoderConfig) -> float:
    """What the mathematics multiplies and the counter does not see, less what the reference multiplies beyond that.

    torch turns a product whose inner dimension is 1 into an elementwise one: the weighted sum of a query that sees one
    key, and the update of a state by one token. The reference of the Memorizing Transformer scores the chosen pairs
    once more; that of Transformer-XL projects the distances in every call.
    """
    combination = parse_spec(spec)
    name, options = combination.name, combination.options
    heads, size, layers = config.n_heads, config.head_size, config.n_layers
    segment = int(options.get("segment_len", TOKENS))
    forgets = name in ("vanilla_segments", "infini_attention") or options.get("xl_cache") is False
    alone = [p for p in range(TOKENS) if p == 0 or (forgets and p % segment == 0)]
    updates = {"infini_attention": config.kv_heads * (TOKENS // segment * segment)}.get(name, 0)
    if name in ("linear_transformer", "lightning_attention2"):
        alone, updates = [], heads * TOKENS
    found = layers * (2 * heads * size * len(alone) + 2 * size**2 * updates)
    if name == "memorizing_transformer":
        most = min(int(options["memory_size"]), int(options["top_k"]))
        found -= 2 * heads * size * sum(min(most, p - p % segment) for p in range(TOKENS))
    if name == "transformer_xl":
        rows = segment_pairs(Call(TOKENS, 0, heads, size), segment, int(options["mem_len"]))
        found -= layers * 2 * rows * heads * size * config.d_model
    return found


def formula(spec: str, calls: list[tuple[int, int]], config: DecoderConfig = CONFIG) -> float:
    combination = parse_spec(spec)
    heads, size, layers = config.n_heads, config.head_size, config.n_layers
    found = [
        operation_flops(combination, Call(tokens, past, heads, size, layer, layers, config.n_kv_heads))
        for tokens, past in calls
        for layer in range(layers)
    ]
    assert None not in found
    return sum(found)  # type: ignore[arg-type]


def test_every_built_in_method_has_its_line() -> None:
    built_in = {m.name for p in load_catalog().plugins if p.distribution == "longatlas" for m in p.methods}
    assert set(SPECS) == built_in
    for name, specs in SPECS.items():
        without = operation_flops(parse_spec(name), Call(8, 0, 2, 16)) is None
        assert without == (name in ("parallel_context_windows", "passage_selection")), name
        assert specs or name in ("int8_weights", "parallel_context_windows", "passage_selection")


@pytest.mark.parametrize("config", [CONFIG, GROUPED], ids=["heads", "grouped"])
@pytest.mark.parametrize("spec", ALL)
def test_the_formula_is_what_the_reference_multiplies(spec: str, config: DecoderConfig) -> None:
    one_by_one = [(1, past) for past in range(TOKENS)]
    assert formula(spec, one_by_one, config) == counted(spec, config) + unseen(spec, config)


@pytest.mark.parametrize("spec", ALL)
def test_calls_add_up(spec: str) -> None:
    whole = formula(spec, [(TOKENS, 0)])
    assert whole == formula(spec, [(1, past) for past in range(TOKENS)]) == formula(spec, [(9, 0), (14, 9)])


def test_transformer_xl_with_the_same_length_for_all_sees_a_window() -> None:
    spec = "transformer_xl:segment_len=6:mem_len=4:same_length=true"
    expected = 6 * CONFIG.n_heads * CONFIG.head_size * sum(min(p + 1, 4) for p in range(TOKENS))
    assert formula(spec, [(TOKENS, 0)]) == CONFIG.n_layers * expected


def test_pairs_against_counting_them_one_by_one() -> None:
    for past in (0, 3, 8):
        for tokens in (1, 2, 11):
            call = Call(tokens, past, 1, 1)
            places = range(past, past + tokens)
            assert call.causal == sum(p + 1 for p in places)
            for size in (1, 4, 50):
                assert windowed_pairs(call, size) == sum(min(p + 1, size) for p in places)
                assert segment_pairs(call, size, 3) == sum(
                    sum(1 for k in range(p + 1) if k >= p - p % size - 3) for p in places
                )


def cell(phase: str, level: str, batch: int = 3) -> dict[str, Any]:
    return {"phase": phase, "level": level, "T": TOKENS, "case": {"batch": batch}}


def test_a_decoder_is_its_layers_projections_and_head() -> None:
    config = DecoderConfig(vocab_size=16, d_model=32, n_layers=2, n_heads=2)
    decoder, combination = Decoder(config, "vanilla"), parse_spec("vanilla")
    tokens = torch.zeros(3, TOKENS, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        Decoder(config, "vanilla", impl="reference")(tokens)
    dense = 3 * 2 * causal_softmax(Call(TOKENS, 0, 2, 16)) * (2 * TOKENS / (TOKENS + 1) - 1)  # the hidden half
    found = cell_flops(combination, decoder, config, cell("prefill", "decoder"))
    assert found is not None
    assert found + dense == pytest.approx(counter.get_total_flops())
    assert cell_flops(combination, decoder, config, cell("train", "decoder")) == 3 * found
    layer = cell_flops(combination, decoder.core.blocks[0], config, cell("prefill", "layer"))
    operation = cell_flops(combination, decoder.core.blocks[0].mixer, config, cell("prefill", "operation"))
    head = 3 * 2 * TOKENS * 16 * 32
    assert layer is not None
    assert found == 2 * layer + head
    assert operation == 3 * causal_softmax(Call(TOKENS, 0, 2, 16))
    quantised = parse_spec("int8_weights")
    assert cell_flops(quantised, Decoder(config, quantised), config, cell("prefill", "decoder")) == found


def test_backward_multiplies_twice_as_much() -> None:
    config = DecoderConfig(vocab_size=16, d_model=32, n_layers=2, n_heads=2)
    decoder = Decoder(config, "linear_transformer", impl="reference")
    with FlopCounterMode(display=False) as forward:
        loss = decoder.loss(torch.zeros(1, TOKENS + 1, dtype=torch.long))
    with FlopCounterMode(display=False) as backward:
        loss.backward()  # type: ignore[no-untyped-call]
    assert backward.get_total_flops() == pytest.approx(2 * forward.get_total_flops(), rel=0.05)


def test_a_method_without_a_formula_has_none(planted: Any) -> None:
    assert operation_flops(parse_spec(planted("third_party")), Call(8, 0, 2, 16)) is None


@pytest.mark.parametrize("other", ["sliding_window", "linear_transformer", "alibi"])
def test_what_is_read_after_a_selection_is_not_guessed(other: str) -> None:
    assert operation_flops(parse_spec(f"passage_selection+{other}"), Call(800, 0, 2, 16)) is None


@pytest.mark.parametrize("spec", ALL)
def test_a_formula_does_not_walk_the_tokens(spec: str) -> None:
    many = 1 << 40  # a loop over so many would not end
    assert formula(spec, [(2 * many, 0)]) == pytest.approx(formula(spec, [(many, 0), (many, many)]))


def test_a_method_around_the_decoder_leaves_the_operation_as_it_is() -> None:
    call = Call(TOKENS, 0, 2, 16)
    assert operation_flops(parse_spec("int8_weights"), call) == causal_softmax(call)
    linear = operation_flops(parse_spec("linear_transformer"), call)
    assert operation_flops(parse_spec("int8_weights+linear_transformer"), call) == linear != causal_softmax(call)
