"""Parallel Context Windows (arXiv:2212.10947): windows read side by side, then tokens that see all."""

from typing import Any

from longatlas import Context, Cost, Method, Option, Prompt
from longatlas.flops import growing_cache
from longatlas.lazy import lazy_exports


def parallel_windows(config: Any, *, query_len: int, window: int) -> Context:
    """Cut the input into windows and task tokens, and join the windows' caches."""
    from longatlas_plugins.context_processing.parallel_context_windows.fast import (
        merge_states,
        split_windows,
    )

    def split(tokens: Any) -> Prompt:
        return split_windows(tokens, query_len=query_len, window=window)

    return Context(split, merge_states)


METHOD = Method(
    name="parallel_context_windows",
    title="Parallel Context Windows",
    family="context_processing/aggregation/parallel_windows",
    paper="2212.10947",
    summary="Reads windows independently at the same positions; the last tokens attend to all of them.",
    fills={"context": parallel_windows},
    options=(
        Option("query_len", 64, "last tokens, which see all windows", unit="tokens", min=1),
        Option("window", 256, "tokens of a window", unit="tokens", min=1),
    ),
    cost=Cost(time="T*W", state="T"),
    state_size=growing_cache,
    impls=("torch", "reference"),
    training="retrofit",
    deviations="The input has no marks, so the task tokens are its last ones and windows are cut at fixed "
    "places rather than between examples; the last window may be shorter. It works only where the state is "
    "the growing key-value cache, without a short convolution.",
    source="Checked in fp64 against dense attention over the whole input with the windows' mask and "
    "positions, and against the plain decoder where one window holds everything.",
    equations=(
        r"p_i = i \bmod W \ \text{(windows)}, \quad p_i = W + i - (T - T_q) \ \text{(task)}",
        r"o_i = \sum_{j \le i,\ j \in \mathrm{win}(i)} a_{ij} v_j \ \text{(windows)}, \quad "
        r"o_i = \sum_{j \le i} a_{ij} v_j \ \text{(task tokens)}",
    ),
)

__getattr__ = lazy_exports(__name__, {"merge_states": ".fast", "split_windows": ".fast"})
