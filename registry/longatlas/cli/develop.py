"""`longatlas verify` and `longatlas new`: check a method, start a method."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from longatlas.catalog import has_cuda, load_catalog, obstacles
from longatlas.cli.output import console, print_json, table
from longatlas.errors import LongAtlasError

if TYPE_CHECKING:
    from longatlas.harness.executor import Request
    from longatlas.testing import Report


@click.command()
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every method that can run here.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=600.0,
    show_default=True,
    help="Seconds for one method, at most; what is not done by then is ended, and fails.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a list of reports.")
def verify(names: tuple[str, ...], everything: bool, device: str, timeout: float, as_json: bool) -> None:
    """Check methods against what every method must hold.

    NAMES may be specs with options and combinations, such as yarn:factor=4+sliding_window. The exit code is 1
    when a check fails.
    """
    chosen = _chosen(names, everything)
    _check_device(device)
    reports = _verify(chosen, device, timeout)
    if as_json:
        print_json([report.as_dict() for report in reports])
    else:
        _print(reports)
    sys.exit(0 if all(report.ok for report in reports) else 1)


def _chosen(names: tuple[str, ...], everything: bool) -> list[str]:
    from longatlas.combination import parse_spec

    if everything == bool(names):
        raise LongAtlasError("verify takes the names of methods, or --all; `longatlas list` shows the names")
    if everything:
        names = tuple(method.name for method in load_catalog().select() if not obstacles(method))
    return list(dict.fromkeys(parse_spec(name).spec for name in names))


def _check_device(device: str) -> None:
    kind = device.split(":")[0]
    if kind not in ("cpu", "cuda"):
        raise LongAtlasError(f"--device is '{device}'; it must be cpu or cuda")
    if kind == "cuda" and not has_cuda():
        raise LongAtlasError("--device is 'cuda', but no NVIDIA GPU was found here; `longatlas doctor` says more")


def _verify(specs: list[str], device: str, timeout: float) -> list[Report]:
    """A report for each spec; on a CPU as many are made at once as there are cores."""
    from longatlas.harness.executor import Request
    from longatlas.harness.findings import value_of
    from longatlas.harness.running import executor_on
    from longatlas.testing import Report

    requests = [Request("verify", {"spec": spec, "device": device}) for spec in specs]
    reports: dict[str, Report] = {}
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console(stderr=True), transient=True) as progress, executor_on(device) as executor:
        total = progress.add_task("", total=len(specs))

        def show(request: Request, result: Any) -> None:
            progress.update(total, description=f"{request.arguments['spec']}: {result['check']}")

        for reply in executor.ask(requests, timeout, together=device == "cpu", told=show):
            reports[reply.request.arguments["spec"]] = Report.from_dict(value_of(reply))
            progress.advance(total)
    return [reports[spec] for spec in specs]


def _print(reports: list[Report]) -> None:
    out = console()
    rows = [
        (report.method, result.check, result.status, f"{result.seconds:.2f}", result.detail)
        for report in reports
        for result in report.results
    ]
    out.print(table(("method", "check", "status", "seconds", "detail"), rows))
    red = [report.method for report in reports if not report.ok]
    good = len(reports) - len(red)
    out.print(f"{good} of {len(reports)} methods pass" + (f"; failing: {', '.join(red)}" if red else ""))


@click.command()
@click.argument("name")
@click.option("--slot", required=True, help="The part of the decoder that it changes, such as attention.")
@click.option("--family", required=True, metavar="LEAF", help="Its place; `longatlas taxonomy` shows all.")
@click.option("--title", default="", help="As a reader should see it; by default made from NAME.")
@click.option("--directory", default=".", metavar="DIR", help="Where the package's folder is made.")
def new(name: str, slot: str, family: str, title: str, directory: str) -> None:
    """Write the package of a new method: it installs, passes `verify` and is yours to change."""
    from longatlas.scaffold import write_package

    folder = write_package(name, slot=slot, family=family, title=title, directory=Path(directory))
    click.echo(f"Wrote {folder}. Next:")
    for command in (
        f"pip install -e {folder}",
        f"longatlas verify {name}",
        f"longatlas run --methods vanilla,{name}",
    ):
        click.echo(f"  {command}")
