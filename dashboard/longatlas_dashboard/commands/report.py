"""The command `report`: one HTML page of a set of results."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import click

from longatlas.cli.measure import store_option
from longatlas.cli.results import filter_options
from longatlas.errors import LongAtlasError


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("report.html"),
    show_default=True,
    help="File to write.",
)
@click.option("--title", default="", help="Its title.  [default: longatlas report]")
@filter_options
@store_option
def report(
    output: Path, title: str, methods: tuple[str, ...], measure: str | None, phase: str, store: str | None
) -> None:
    """Write one self-contained page with charts and tables of results; it loads nothing from anywhere.

    Only the newest result of every cell is in it. Rows of different machines or cases stand in sections of their own.

    \b
    Examples:
      longatlas report -o report.html
      longatlas report --method vanilla --method yarn --measure speed -o yarn.html --title "YaRN here"
    """
    if importlib.util.find_spec("altair") is None or importlib.util.find_spec("vl_convert") is None:
        raise LongAtlasError("the report's charts need Altair; run `pip install altair vl-convert-python`")
    from longatlas.store import open_to_read
    from longatlas_dashboard.report import report as make

    text = make(open_to_read(store), title=title, methods=methods, measure=measure or "", phase=phase)
    partial = output.with_name(f"{output.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(output)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise LongAtlasError(f"cannot write '{output}': {error.strerror}; choose another place with -o") from None
    click.echo(f"{output}: {len(text.encode()) / 1024:,.0f} KiB")
