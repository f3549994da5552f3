"""Built-in methods of the family context_processing."""

from collections.abc import Callable

from longatlas import Method, hookimpl
from longatlas_plugins.context_processing import parallel_context_windows, passage_selection

METHODS: tuple[Method, ...] = (passage_selection.METHOD, parallel_context_windows.METHOD)


@hookimpl
def register_methods(register: Callable[[Method], None]) -> None:
    for method in METHODS:
        register(method)
