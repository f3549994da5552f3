"""Specs: `name:option=value+name`, read, spelt canonically, and refused with what is wrong."""

import pytest

from longatlas import LongAtlasError, UnknownNameError, parse_spec
from longatlas.combination import as_combination, parse_specs


def test_a_spec_is_read_and_spelt_back():
    combination = parse_spec("yarn:factor=8 + sliding_window:window=64")
    assert combination.spec == "yarn:factor=8.0+sliding_window:window=64"
    assert combination.name == "yarn+sliding_window"
    assert combination.options["yarn.factor"] == 8.0
    assert combination.options["sliding_window.window"] == 64
    assert parse_spec(combination.spec) == combination
    assert parse_spec("sliding_window:window=512").spec == "sliding_window"


def test_lists_of_specs_count_each_once():
    found = parse_specs("vanilla, yarn:factor=4,yarn, sliding_window:window=512,sliding_window")
    assert [c.spec for c in found] == ["vanilla", "yarn", "sliding_window"]


@pytest.mark.parametrize(
    ("spec", "first", "second", "slot"),
    [
        ("sliding_window+streaming_llm", "sliding_window", "streaming_llm", "attention"),
        ("yarn+alibi", "yarn", "alibi", "position"),
        ("transformer_xl+yarn", "transformer_xl", "yarn", "position"),
        ("flash_attention+transformer_xl", "flash_attention", "transformer_xl", "attention"),
        ("yarn+yarn:factor=2", "yarn", "yarn", "position"),
    ],
)
def test_clashing_slots_are_refused_with_both_names(spec, first, second, slot):
    with pytest.raises(LongAtlasError) as error:
        parse_spec(spec)
    assert f"'{first}' and '{second}' both fill the slot '{slot}'" in str(error.value)
    assert ("a mixer stands in place of" in str(error.value)) == ("transformer_xl" in spec)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("yran", "unknown method 'yran'; did you mean 'yarn'"),
        ("yarn+slidng_window", "did you mean 'sliding_window'"),
        ("yarn:facto=2", "unknown option of method 'yarn': 'facto'; did you mean 'factor'"),
        (
            "yarn:factor=0.5",
            "method 'yarn': option 'factor' is 0.5; expected a number of at least 1",
        ),
        ("yarn:factor=big", "is 'big'; expected a number of at least 1"),
        ("yarn:factor", "'factor' in the spec 'yarn:factor' is no option; write name:option=value"),
        ("yarn+", "names no method at one place"),
        ("", "names no method at one place"),
    ],
)
def test_what_is_wrong_with_a_spec_is_said(spec, words):
    with pytest.raises(LongAtlasError) as error:
        parse_spec(spec)
    assert words in str(error.value)


def test_host_is_what_a_model_is_trained_with():
    assert parse_spec("yarn").host.spec == "vanilla"
    assert parse_spec("yarn+sliding_window").host.spec == "sliding_window"
    assert parse_spec("sliding_window").host.spec == "sliding_window"
    assert parse_spec("yarn+streaming_llm").training == "retrofit"


def test_a_method_is_accepted_as_it_is():
    method = parse_spec("yarn").parts[0].method
    assert as_combination(method) == parse_spec("yarn")
    with pytest.raises(UnknownNameError):
        as_combination("nothing_like_it")
