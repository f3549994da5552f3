"""Built-in methods of the family misc."""

from collections.abc import Callable

from longatlas import Method, hookimpl
from longatlas_plugins.misc import int8_weights

METHODS: tuple[Method, ...] = (int8_weights.METHOD,)


@hookimpl
def register_methods(register: Callable[[Method], None]) -> None:
    for method in METHODS:
        register(method)
