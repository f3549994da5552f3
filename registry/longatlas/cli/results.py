"""The command `results`: show what is stored, take it out, take others' in, and clear away."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from longatlas.cli.measure import Command, flat_rows, json_option, print_tables, store_option
from longatlas.cli.output import print_json
from longatlas.measures import MEASURES

if TYPE_CHECKING:
    import pandas as pd


def filter_options(command: Command) -> Command:
    """The options that choose rows."""
    for option in (
        click.option("--phase", default="", help="Only this phase or task."),
        click.option(
            "--measure", type=click.Choice(list(MEASURES)), metavar="NAME", help=f"Only one of {', '.join(MEASURES)}."
        ),
        click.option(
            "--method",
            "methods",
            multiple=True,
            help="Only this method (every spec of it) or this spec; may be repeated.",
        ),
    ):
        command = option(command)
    return command


@click.group(invoke_without_command=True)
@filter_options
@store_option
@json_option
@click.pass_context
def results(
    context: click.Context,
    methods: tuple[str, ...],
    measure: str | None,
    phase: str,
    store: str | None,
    as_json: bool,
) -> None:
    """Show what is in the store: the newest result of every cell.

    Stale is what was measured by code that has changed since, or is not installed any more: the same `longatlas run`
    measures it again.

    \b
    Examples:
      longatlas results --method yarn
      longatlas results export rows.parquet
      longatlas results import colleague.json
    """
    context.obj = store
    if context.invoked_subcommand is not None:
        if methods or measure or phase or as_json:
            raise click.UsageError(
                f"options of `longatlas results` itself say nothing to `{context.invoked_subcommand}`; put them after "
                f"it, as in `longatlas results {context.invoked_subcommand} --method yarn`"
            )
        return
    from longatlas.store import open_to_read, queries

    chosen = {"methods": methods, "measure": measure or "", "phase": phase}
    opened = open_to_read(store)
    frame = opened.rows(latest=True, **chosen)  # type: ignore[arg-type]
    frame = queries.with_stale(frame, queries.current_sources(opened))
    if as_json:
        print_json(flat_rows(frame))
    elif frame.empty and any(chosen.values()):
        click.echo("No results for these filters; `longatlas results` shows what there is.")
    elif frame.empty:
        click.echo("No results yet. `longatlas demo` makes some, or `longatlas run --methods a,b`.")
    else:
        print_tables(frame)
        _tell_stale(frame)


def _tell_stale(frame: pd.DataFrame) -> None:
    stale = frame[frame["stale"]]
    if len(stale):
        names = ", ".join(dict.fromkeys(stale["method"]))
        click.echo(f"\nStale, measured by code that has changed since or is not installed any more: {names}")


@results.command("export")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@filter_options
@click.option("--all", "everything", is_flag=True, help="Superseded results too, not only the newest of each cell.")
@store_option
@click.pass_obj
def export(
    given: str | None,
    file: Path,
    methods: tuple[str, ...],
    measure: str | None,
    phase: str,
    everything: bool,
    store: str | None,
) -> None:
    """Write rows to FILE: .csv, .json or .parquet, with all samples, versions and the machine."""
    from longatlas.store import open_to_read
    from longatlas.store.transfer import export_rows

    opened = open_to_read(store or given)
    frame = opened.rows(methods=methods, measure=measure or "", phase=phase, latest=not everything, samples=True)
    export_rows(frame, file)
    click.echo(f"{len(frame)} rows of {frame['cell'].nunique()} cells are in {file}")


@results.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@store_option
@click.pass_obj
def import_(given: str | None, files: tuple[Path, ...], store: str | None) -> None:
    """Take in rows that `results export` wrote, here or on another machine, or pytest-benchmark's saved runs.

    Every row is checked first; one that is wrong is named, and nothing of its file is taken in. Cells that are there
    already are left as they are. Rows keep their own machine, so they are never compared with this one's as equals.
    """
    from longatlas.store import Store
    from longatlas.store.transfer import import_rows, read_rows

    read = {file: read_rows(file, lambda text: click.echo(text, err=True)) for file in files}
    opened = Store(store or given)
    for file, rows in read.items():
        done = import_rows(opened, rows, file.name)
        known = f"; {done.known} cells were there already" if done.known else ""
        click.echo(f"{file}: {done.rows} rows of {done.cells} cells imported{known}")


@results.command("prune")
@click.option("--older-than", default="", metavar="AGE", help="Cells finished longer ago than 12h, 30d or 8w.")
@click.option("--superseded", is_flag=True, help="Cells that a newer one of the same measurement has replaced.")
@click.option("--failed", is_flag=True, help="Cells whose status is not ok.")
@click.option("--method", default="", help="Cells of this method (every spec of it) or this spec.")
@click.option("--dry-run", is_flag=True, help="Say what would go, and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_option
@click.pass_obj
def prune(given: str | None, /, dry_run: bool, yes: bool, store: str | None, **conditions: Any) -> None:
    """Delete results; several conditions narrow it. Trained hosts are left: they are found again by content."""
    from longatlas.store import Store
    from longatlas.store import prune as pruning

    which = pruning.selection(**conditions)
    opened = Store(store or given)
    cells, rows = pruning.count(opened, which)
    if dry_run or not cells:
        click.echo(f"{rows} rows of {cells} cells would be deleted from {opened.name}")
        return
    if not yes:
        click.confirm(f"Delete {rows} rows of {cells} cells from {opened.name}?", abort=True)
    pruning.prune(opened, which)
    click.echo(f"{rows} rows of {cells} cells deleted")
