"""Look-up by name, filters, and status computed from this machine."""

import pytest

from longatlas import Method, UnknownNameError, catalog, parse_spec
from longatlas.catalog import auto_impl, impl_obstacle, load_catalog, method_status, obstacles

SEVENTEEN = """vanilla vanilla_segments flash_attention sliding_window streaming_llm linear_transformer
    lightning_attention2 transformer_xl infini_attention memorizing_transformer alibi position_interpolation
    ntk_rope yarn passage_selection parallel_context_windows int8_weights"""


def card(**changes):
    facts = {"name": "m", "title": "M", "family": "misc/objectives", "summary": "One.", "fills": {"ffn": print}}
    return Method(**{**facts, **changes})


def test_the_seventeen_methods_are_ready():
    expected = set(SEVENTEEN.split())
    ready = [method.name for method in load_catalog().select(status="ready")]
    assert len(expected) == 17
    assert expected <= set(ready)


def test_select_filters_by_family_and_keeps_the_taxonomys_order():
    chosen = load_catalog().select("efficient_attention/local")
    assert {m.family.split("/")[1] for m in chosen} == {"local"}
    assert next(m.name for m in load_catalog().select()) == "vanilla"
    families = [m.family.split("/")[0] for m in load_catalog().select()]
    assert families == sorted(families, key=list(dict.fromkeys(families)).index)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda c: c.method("yran"), "unknown method 'yran'; did you mean 'yarn'"),
        (lambda c: c.task("mqra"), "unknown task 'mqra'; did you mean 'mqar'"),
        (lambda c: c.select("efficient_atention"), "did you mean 'efficient_attention'"),
        (lambda c: c.select(status="redy"), "unknown status 'redy'; did you mean 'ready'"),
        (lambda c: c.plugin_of("yran"), "did you mean 'yarn'"),
    ],
)
def test_unknown_names_get_a_suggestion(call, words):
    with pytest.raises(UnknownNameError) as error:
        call(load_catalog())
    assert words in str(error.value)


def test_status_is_computed(monkeypatch):
    assert method_status(card()) == "ready"
    assert method_status(card(fills={})) == "described only"
    assert obstacles(card(requires=("no_such_module",))) == [("needs no_such_module", "pip install no_such_module")]
    monkeypatch.setattr(catalog, "has_cuda", lambda: False)
    assert method_status(card(devices=("cuda",))) == "needs cuda"
    monkeypatch.setattr(catalog, "has_cuda", lambda: True)
    assert method_status(card(devices=("cuda",))) == "ready"
    assert method_status(card(requires=("a.b",))).startswith("broken: ")


def test_auto_is_the_first_impl_that_runs_here(monkeypatch):
    kernel = card(impls=("triton", "torch", "reference"))
    monkeypatch.setattr(catalog, "has_cuda", lambda: False)
    assert auto_impl(kernel) == ("torch", "the first of its impls that runs here; triton needs an NVIDIA GPU")
    assert auto_impl(card(impls=("triton",)))[0] == "reference"
    assert auto_impl(card(impls=("torch", "reference")))[0] == "torch"
    monkeypatch.setattr(catalog, "has_cuda", lambda: True)
    assert auto_impl(kernel)[0] == "triton"


def test_auto_is_torch_where_kernels_do_not_take_the_case():
    lightning = parse_spec("lightning_attention2")
    assert lightning.resolve_impl("auto", "cuda", "bfloat16", 64) == "triton"
    assert lightning.resolve_impl("auto", "cuda", "float64", 64) == "torch"
    assert lightning.resolve_impl("auto", "cuda", "float32", 20) == "torch"
    assert lightning.resolve_impl("triton", "cuda", "float64", 64) == "triton"
    assert impl_obstacle("triton", "cuda", "float64") == "triton kernels have no float64"
    assert "not 272" in impl_obstacle("triton", "cuda", "float32", 272)
