"""The Streamlit app: one module per page; its commands join the command line as those of any plugin do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from longatlas import hookimpl

if TYPE_CHECKING:
    import click


@hookimpl
def register_commands(cli: click.Group) -> None:
    from longatlas_dashboard.commands.dashboard import dashboard
    from longatlas_dashboard.commands.demo import demo
    from longatlas_dashboard.commands.report import report

    for command in (dashboard, demo, report):
        cli.add_command(command)
