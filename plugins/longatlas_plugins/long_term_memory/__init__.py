"""Built-in methods of the family long_term_memory."""

from collections.abc import Callable

from longatlas import Method, hookimpl
from longatlas_plugins.long_term_memory import infini_attention, memorizing_transformer, transformer_xl

METHODS: tuple[Method, ...] = (transformer_xl.METHOD, infini_attention.METHOD, memorizing_transformer.METHOD)


@hookimpl
def register_methods(register: Callable[[Method], None]) -> None:
    for method in METHODS:
        register(method)
