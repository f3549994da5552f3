"""Baselines that every other method is compared with."""

from collections.abc import Callable

from longatlas import Method, hookimpl
from longatlas_plugins.preliminaries import vanilla, vanilla_segments

METHODS = (vanilla.METHOD, vanilla_segments.METHOD)


@hookimpl
def register_methods(register: Callable[[Method], None]) -> None:
    for method in METHODS:
        register(method)
