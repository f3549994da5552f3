"""`longatlas verify` and `longatlas new`: check a method, start a method."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING

import click
import psutil
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from longatlas.catalog import load_catalog, obstacles
from longatlas.cli.output import console, print_json, table
from longatlas.errors import LongAtlasError
from longatlas.processes import adopt_orphans, end_with_parent, kill_descendants

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from longatlas.combination import Combination
    from longatlas.testing import Report

POLL_SECONDS = 0.25


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


def _verify(chosen: list[Combination], device: str, timeout: float) -> list[Report]:
    reports = []
    specs = [combination.spec for combination in chosen]
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        total = progress.add_task(chosen[0].spec, total=len(chosen))
        for number, report in enumerate(_reports(specs, device, timeout), 1):
            following = chosen[number].spec if number < len(chosen) else ""
            progress.update(total, completed=number, description=following)
            reports.append(report)
    return reports


def _reports(specs: list[str], device: str, timeout: float) -> Iterator[Report]:
    """A report for each spec, from a process of their own: a method that ends it, or hangs, costs its report alone."""
    from longatlas.testing import CheckResult, Report
    from longatlas.testing.report import FAILED

    checker: Checker | None = None
    adopt_orphans()
    try:
        for spec in specs:
            checker = checker or Checker(device)
            try:
                yield checker.report(spec, timeout)
                continue
            except EOFError:
                text = "it ended the process: a crash, os._exit, or lack of memory"
            except TimeoutError:
                text = f"not done after {timeout:g} s, and was ended; `--timeout` gives it longer"
            checker.end()
            checker = None
            yield Report(spec, (CheckResult("survives", FAILED, text),))
    finally:
        if checker:
            checker.end()


class Checker:
    """A process that checks one method after the other. It ends with this one, and all that it started with it."""

    def __init__(self, device: str) -> None:
        context = multiprocessing.get_context("spawn")
        resource_tracker.ensure_running()
        self._others = {child.pid for child in psutil.Process().children()}
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_check, args=(theirs, device))
        self._process.start()
        theirs.close()

    def report(self, spec: str, timeout: float) -> Report:
        """What it finds. Raises EOFError when the process ends over it, TimeoutError after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        with suppress(OSError):  # it has ended: that is found below
            self._connection.send(spec)
        while not self._connection.poll(POLL_SECONDS):
            if time.monotonic() > deadline:
                raise TimeoutError
            if not self._process.is_alive() and not self._connection.poll(0):
                raise EOFError  # what it started may hold the connection open
        try:
            found: Report | LongAtlasError = self._connection.recv()
        except OSError:
            raise EOFError from None
        if isinstance(found, LongAtlasError):
            raise found
        return found

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()
        kill_descendants(spare=self._others)


def _check(connection: Connection, device: str) -> None:
    """The checker's own loop: a spec comes in, a report goes out."""
    from longatlas.testing import verify_method

    end_with_parent(signal.SIGKILL)
    _print_to_stderr()
    own = os.getpid()
    while True:
        spec = connection.recv()
        try:
            found: Report | LongAtlasError = verify_method(spec, device=device)
        except LongAtlasError as error:
            found = error
        if os.getpid() != own:  # the method forked, and this is the copy
            os._exit(0)
        connection.send(found)


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
