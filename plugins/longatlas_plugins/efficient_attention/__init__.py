"""Built-in methods of the family efficient_attention."""

from collections.abc import Callable

from longatlas import Method, hookimpl
from longatlas_plugins.efficient_attention import (
    flash_attention,
    lightning_attention2,
    linear_transformer,
    sliding_window,
    streaming_llm,
)

METHODS: tuple[Method, ...] = (
    flash_attention.METHOD,
    lightning_attention2.METHOD,
    linear_transformer.METHOD,
    sliding_window.METHOD,
    streaming_llm.METHOD,
)


@hookimpl
def register_methods(register: Callable[[Method], None]) -> None:
    for method in METHODS:
        register(method)
