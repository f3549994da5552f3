"""Built-in methods of the family context_processing."""

from collections.abc import Callable

from longatlas import Method, hookimpl

METHODS: tuple[Method, ...] = ()


@hookimpl
def register_methods(register: Callable[[Method], None]) -> None:
    for method in METHODS:
        register(method)
