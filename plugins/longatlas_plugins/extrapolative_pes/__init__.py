"""Built-in methods of the family extrapolative_pes."""

from collections.abc import Callable

from longatlas import Method, hookimpl
from longatlas_plugins.extrapolative_pes import alibi, ntk_rope, position_interpolation, yarn

METHODS: tuple[Method, ...] = (alibi.METHOD, position_interpolation.METHOD, ntk_rope.METHOD, yarn.METHOD)


@hookimpl
def register_methods(register: Callable[[Method], None]) -> None:
    for method in METHODS:
        register(method)
