"""The three hooks a plugin can implement: register_methods, register_tasks, register_commands."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import click

    from longatlas.cards import Method, Task

hookspec = pluggy.HookspecMarker("longatlas")
hookimpl = pluggy.HookimplMarker("longatlas")


@hookspec
def register_methods(register: Callable[[Method | str], None]) -> None:
    """Call `register(Method(...))` once for each method the plugin brings.

    A card that is refused costs itself alone. So does a module that fails where its name is registered in place of its
    card: `register("mine.first")` takes `METHOD` of that module, whose last name is the method's.
    """


@hookspec
def register_tasks(register: Callable[[Task | str], None]) -> None:
    """Call `register(Task(...))` once for each quality task the plugin brings; a module's card is called `TASK`."""


@hookspec
def register_commands(cli: click.Group) -> None:
    """Add commands to the `longatlas` command line, as `cli.add_command(...)` does in click."""


def method_folder(package: str) -> Callable[..., Any]:
    """The hook `register_methods` of a package whose folder is the list of its methods.

    In the package's `__init__.py`: `register_methods = longatlas.method_folder(__name__)`. Every folder or file of the
    package is a method of that name, with its card in `METHOD`, and fails alone. Names that start with `_` are left
    out: they are for what methods share.
    """

    @hookimpl
    def register_methods(register: Callable[[Method | str], None]) -> None:
        for module in iter_modules(import_module(package).__path__):
            if not module.name.startswith("_"):
                register(f"{package}.{module.name}")

    return register_methods
