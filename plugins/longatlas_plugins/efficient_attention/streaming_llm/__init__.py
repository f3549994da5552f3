"""StreamingLLM (arXiv:2309.17453): keep the first tokens and the most recent ones, places counted in the cache."""

from typing import Any

from longatlas import Attention, Cost, Memory, Method, Option
from longatlas.flops import windowed_pairs


def sink_attention(config: Any, *, sinks: int, window: int, impl: str) -> Attention:
    """A query sees the sinks and its window; its distance to a sink is their distance in the cache."""
    from functools import partial

    if impl == "reference":
        from longatlas_plugins.efficient_attention.streaming_llm.reference import attend
    else:
        from longatlas_plugins.efficient_attention.streaming_llm.fast import attend

    return Attention(forward=partial(attend, sinks=sinks, window=window), raw=True)


def sink_cache(config: Any, *, sinks: int, window: int) -> Memory:
    """Keep the sinks and the window - 1 most recent keys, before rotation."""

    def extend(k: Any, v: Any, past: Any, here: Any) -> Any:
        from longatlas.decoder.defaults import grow_cache, keep

        seen = grow_cache(k, v, past, here)
        return keep(seen, (seen.positions < sinks) | (seen.positions > here.end - window))

    return Memory(extend)


METHOD = Method(
    name="streaming_llm",
    title="StreamingLLM",
    family="efficient_attention/local/global_local_hybrid",
    paper="2309.17453",
    summary="Keeps the first few tokens as attention sinks and a window of recent ones, so a stream never ends.",
    fills={"attention": sink_attention, "memory": sink_cache},
    options=(
        Option("sinks", 4, "first tokens kept", unit="sinks", min=0),
        Option("window", 512, "recent tokens kept, the present one included", unit="tokens", min=1),
    ),
    cost=Cost(time="T*W", state="W"),
    flops=lambda call, *, sinks, window: call.softmax(windowed_pairs(call, sinks + window)),
    state_size=lambda call, *, sinks, window: call.keys_values(min(call.end, sinks + window - 1)),
    impls=("torch", "reference"),
    training="retrofit",
    deviations=(
        "Exact for every token: a long prompt gives what feeding it token by token gives, where the authors' code "
        "evicts once per call."
    ),
    source="Checked against a literal cache that is rotated anew for every token, in fp64.",
    equations=(
        r"o_i = \mathrm{softmax}\left([\,q^{(\min(i,\,s+W-1))} \cdot k_{j<s}^{(j)},\ "
        r"q^{(i)} \cdot k_{i-W<j\le i}^{(j)}\,]/\sqrt{D}\right) [v_{j<s},\ v_{i-W<j\le i}]",
    ),
)
