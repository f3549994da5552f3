"""The three hooks a plugin can implement: register_methods, register_tasks, register_commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import click

    from longatlas.cards import Method, Task

hookspec = pluggy.HookspecMarker("longatlas")
hookimpl = pluggy.HookimplMarker("longatlas")


@hookspec
def register_methods(register: Callable[[Method], None]) -> None:
    """Call `register(Method(...))` once for each method the plugin brings."""


@hookspec
def register_tasks(register: Callable[[Task], None]) -> None:
    """Call `register(Task(...))` once for each quality task the plugin brings."""


@hookspec
def register_commands(cli: click.Group) -> None:
    """Add commands to the `longatlas` command line, as `cli.add_command(...)` does in click."""
