"""The command line. A command's module is loaded when the command is used, so that `list` loads no torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from longatlas.errors import LongAtlasError, UnsupportedError, unknown_name

COMMANDS = {
    "list": "longatlas.cli.explore:list_methods",
    "show": "longatlas.cli.explore:show",
    "taxonomy": "longatlas.cli.tree:taxonomy",
    "plugins": "longatlas.cli.explore:plugins",
    "influence": "longatlas.cli.influence:influence",
    "footprint": "longatlas.cli.footprint:footprint",
    "doctor": "longatlas.cli.doctor:doctor",
    "verify": "longatlas.cli.develop:verify",
    "new": "longatlas.cli.develop:new",
    "run": "longatlas.cli.measure:run",
    "results": "longatlas.cli.results:results",
    "compare": "longatlas.cli.compare:compare",
    "jobs": "longatlas.cli.measure:jobs",
    "published": "longatlas.cli.published:published",
}


class LazyGroup(click.Group):
    """Knows the built-in commands by name, and loads those of plugins when no built-in has the name."""

    _plugins_loaded = False

    def list_commands(self, ctx: click.Context) -> list[str]:
        self._load_plugins()
        return [*COMMANDS, *sorted(self.commands)]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in COMMANDS:
            module, attribute = COMMANDS[name].split(":")
            command: click.Command = getattr(import_module(module), attribute)
            return command
        self._load_plugins()
        return super().get_command(ctx, name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            raise unknown_name("command", name, self.list_commands(ctx), "`longatlas --help` shows all")
        return super().resolve_command(ctx, args)

    def _load_plugins(self) -> None:
        """Take each plugin's commands whole or, where it fails, not at all with a warning."""
        if self._plugins_loaded:
            return
        self._plugins_loaded = True
        from longatlas.catalog import load_catalog

        for plugin in load_catalog().plugins:
            if plugin.manager is None:
                continue
            staged = click.Group()
            try:
                plugin.manager.hook.register_commands(cli=staged)
                self._commit(staged)
            except (Exception, SystemExit) as error:
                click.echo(f"Warning: plugin '{plugin.name}': its commands are left out: {error}", err=True)

    def _commit(self, staged: click.Group) -> None:
        taken = sorted(staged.commands.keys() & {*COMMANDS, *self.commands})
        if taken:
            raise LongAtlasError(f"command '{taken[0]}' exists already; names are unique: rename it")
        self.commands.update(staged.commands)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="longatlas", message="%(prog)s %(version)s")
def cli() -> None:
    """longatlas, the executable survey of long-context Transformers."""


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 a check failed, 2 bad input, 130 interrupted."""
    _be_lenient_with_encodings()
    try:
        code = cli.main(args, prog_name="longatlas", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (LongAtlasError, UnsupportedError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted.", err=True)
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _be_lenient_with_encodings() -> None:
    """A terminal that cannot show a character shows '?' instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure:
            reconfigure(errors="replace")
