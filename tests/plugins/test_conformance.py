"""Every built-in method, and a few combinations, hold what a method must hold."""

import pytest

from longatlas.catalog import load_catalog
from longatlas.testing import check_method

BUILT_IN = [
    method.name for plugin in load_catalog().plugins if plugin.distribution == "longatlas" for method in plugin.methods
]
COMBINATIONS = [
    "yarn+sliding_window",
    "ntk_rope+streaming_llm",
    "alibi+flash_attention",
    "infini_attention:update=delta",
    "infini_attention+int8_weights",
    "vanilla_segments+position_interpolation",
]


def test_all_built_in_plugins_load():
    assert [str(fault) for p in load_catalog().plugins if p.distribution == "longatlas" for fault in p.faults] == []
    assert len(BUILT_IN) >= 17


@pytest.mark.parametrize("spec", [*BUILT_IN, *COMBINATIONS])
def test_conformance(spec):
    check_method(spec)
