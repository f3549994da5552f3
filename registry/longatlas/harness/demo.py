"""The demo's plan: built-in methods at shapes that take minutes, and every third-party method that is ready."""

from __future__ import annotations

from longatlas.catalog import load_catalog, method_status
from longatlas.harness.plan import Plan

# The first six differ in colour in the dashboard.
METHODS = (
    "vanilla",
    "flash_attention",
    "lightning_attention2",
    "transformer_xl:segment_len=128:mem_len=128",
    "infini_attention:segment_len=128",
    "sliding_window:window=128",
    "streaming_llm:window=124",
    "alibi",
    "yarn:factor=8",
    "linear_transformer",
    "vanilla_segments:segment_len=128",
)


def demo_plan(corpus: str = "") -> Plan:
    """The plan of `longatlas demo`; `corpus` is a path of text, "" = the standard library's source."""
    return Plan(
        methods=(*METHODS, *third_party_methods()),
        lengths=(512, 1024, 2048, 4096),
        tasks=("language_model",),
        preset="demo",
        corpus=corpus,
        layers=1,
        heads=4,
        head_size=32,
        budget=0.6,
        timeout=120.0,
    )


def third_party_methods() -> list[str]:
    """Methods of other distributions that can run here, in order of name."""
    return sorted(
        method.name
        for plugin in load_catalog().plugins
        if plugin.distribution != "longatlas"
        for method in plugin.methods
        if method_status(method) == "ready"
    )
