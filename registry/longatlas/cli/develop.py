"""`longatlas verify` and `longatlas new`: check a method, start a method."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from longatlas.catalog import load_catalog, obstacles
from longatlas.cli.output import console, print_json, table
from longatlas.errors import LongAtlasError

if TYPE_CHECKING:
    from longatlas.combination import Combination
    from longatlas.testing import Report


@click.command()
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every method that can run here.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--json", "as_json", is_flag=True, help="Print a list of reports.")
def verify(names: tuple[str, ...], everything: bool, device: str, as_json: bool) -> None:
    """Check methods against what every method must hold.

    NAMES may be specs with options and combinations, such as yarn:factor=4+sliding_window. The exit code is 1
    when a check fails.
    """
    chosen = _chosen(names, everything)
    _check_device(device)
    reports = _verify(chosen, device)
    if as_json:
        print_json([report.as_dict() for report in reports])
    else:
        _print(reports)
    sys.exit(0 if all(report.ok for report in reports) else 1)


def _chosen(names: tuple[str, ...], everything: bool) -> list[Combination]:
    from longatlas.combination import parse_spec

    if everything == bool(names):
        raise LongAtlasError("verify takes the names of methods, or --all; `longatlas list` shows the names")
    if everything:
        names = tuple(method.name for method in load_catalog().select() if not obstacles(method))
    return [parse_spec(name) for name in names]


def _check_device(device: str) -> None:
    import torch

    kind = device.split(":")[0]
    if kind not in ("cpu", "cuda"):
        raise LongAtlasError(f"--device is '{device}'; it must be cpu or cuda")
    if kind == "cuda" and not torch.cuda.is_available():
        raise LongAtlasError("--device is 'cuda', but torch finds no GPU here; `longatlas doctor` says why")


def _verify(chosen: list[Combination], device: str) -> list[Report]:
    reports = []
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        total = progress.add_task(chosen[0].spec, total=len(chosen))
        for number, report in enumerate(_reports([combination.spec for combination in chosen], device), 1):
            following = chosen[number].spec if number < len(chosen) else ""
            progress.update(total, completed=number, description=following)
            reports.append(report)
    return reports


def _reports(specs: list[str], device: str) -> Iterator[Report]:
    """A report for each spec, from a process of their own: a method that ends it costs its own report alone."""
    from longatlas.testing import CheckResult, Report, verify_method
    from longatlas.testing.report import FAILED

    while specs:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context, initializer=_print_to_stderr) as pool:
            for place, spec in enumerate(specs):
                try:
                    yield pool.submit(verify_method, spec, device=device).result()
                except BrokenProcessPool:
                    ended = CheckResult(
                        "survives", FAILED, "it ended the process: a crash, os._exit, or lack of memory"
                    )
                    yield Report(spec, (ended,))
                    specs = specs[place + 1 :]
                    break
            else:
                return


def _print_to_stderr() -> None:
    """What a method prints is no part of the report; a crash shows there the line of Python it was at."""
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable()


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
