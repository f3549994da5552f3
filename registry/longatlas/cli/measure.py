"""Commands that measure and show what was measured: run, results, jobs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from longatlas.cli.output import console, harmless, print_json, table
from longatlas.errors import LongAtlasError
from longatlas.harness.plan import KEYS
from longatlas.measures import QUALITY

if TYPE_CHECKING:
    import pandas as pd

    from longatlas.harness.jobs import Job
    from longatlas.harness.plan import Plan
    from longatlas.harness.plan_key import Key

Command = Callable[..., Any]

_METAVARS = {int: "INTEGER", float: "NUMBER", str: "TEXT"}

store_option = click.option(
    "--store", help="Store: a path or a URL (default: $LONGATLAS_STORE, else your data folder)."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print flat rows as JSON.")


def plan_options(command: Command) -> Command:
    """An option for each key of a plan; a value that does not fit is the plan's own error."""
    for key in reversed(KEYS.values()):
        metavar = "A,B,..." if key.many else _METAVARS[key.kind]
        command = click.option(f"--{key.flag}", key.name, metavar=metavar, help=key.help + _default(key))(command)
    return command


def _default(key: Key) -> str:
    """The end of an option's help: what it is when it is not given."""
    return f"  [default: {key.write(key.default)}]" if key.default not in ("", ()) else ""


@click.command()
@click.argument("plan", required=False)
@plan_options
@store_option
@click.option("--force", is_flag=True, help="Measure again what is finished.")
@click.option("--retry-failed", is_flag=True, help="Measure again what is finished with another status than ok.")
@click.option("--dry-run", is_flag=True, help="Tell the plan's hash and how many cells it has; measure nothing.")
@click.option("--yes", is_flag=True, help="Do not ask before the preset paper, which takes hours or days.")
@json_option
def run(
    plan: str | None,
    store: str | None,
    force: bool,
    retry_failed: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Measure what a plan asks for; what is in the store already is not measured again.

    PLAN is a YAML file; options replace its keys. Without it, --methods says what to measure. A cell that fails is a
    row with its status and reason; the others go on.

    \b
    Examples:
      longatlas run --methods vanilla,sliding_window:window=256 --measure speed --lengths 1024,4096
      longatlas run plan.yaml --force --json
    """
    from longatlas.harness.progress import progress_bar
    from longatlas.harness.running import run as run_plan

    chosen = make_plan(plan, given)
    if dry_run:
        _tell_of(chosen, store, as_json)
        return
    if chosen.preset == "paper" and QUALITY.name in chosen.measure and not yes:
        ask_first(chosen, store)
    with kept_when_interrupted(), progress_bar() as progress:
        frame = run_plan(chosen, store=store, force=force, retry_failed=retry_failed, progress=progress)
    if as_json:
        print_json(flat_rows(frame.assign(stale=False)))  # the keys of a run's cells hold today's code
    else:
        print_tables(frame)


def _tell_of(plan: Plan, store: str | None, as_json: bool) -> None:
    """What a run of the plan would do, by the store as it is; a store that does not exist is not made."""
    from longatlas.harness.cells import expand
    from longatlas.store import open_to_read

    cells = expand(plan)
    try:
        finished = len(open_to_read(store).finished((cell.key for cell in cells), timeout=plan.timeout))
    except LongAtlasError:
        finished = 0
    told = {"hash": plan.hash, "cells": len(cells), "finished": finished, "plan": plan.as_dict()}
    if as_json:
        print_json(told)
    else:
        click.echo(f"plan {plan.hash}: {len(cells)} cells, {finished} finished, {len(cells) - finished} to measure")


def ask_first(plan: Plan, store: str | None) -> None:
    """Tell what the published setting takes on this machine, and go on only when told to."""
    from longatlas.harness.progress import in_words
    from longatlas.harness.running import estimate
    from longatlas.store import Store

    click.echo("The preset paper trains as published. Timing a few steps of each method ...", err=True)
    seconds = estimate(plan, Store(store))
    click.echo(f"The quality tasks would take about {in_words(seconds)} here.", err=True)
    if not sys.stdin.isatty():
        raise LongAtlasError("the preset paper asks before it runs, and there is no terminal to ask at; add --yes")
    click.confirm("Go on?", abort=True, err=True)


@contextmanager
def kept_when_interrupted() -> Iterator[None]:
    """Ctrl-C ends with exit code 130 and says what is left to do."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo("Interrupted; finished cells are kept, the same command goes on from there.", err=True)
        sys.exit(130)


def make_plan(path: str | None, given: Mapping[str, str | None]) -> Any:
    """A plan from a file and from options; options win."""
    from longatlas.harness.plan import load_plan, plan_from_values, read_key

    values = {name: read_key(f"--{KEYS[name].flag}", name, text) for name, text in given.items() if text is not None}
    if path is not None:
        return load_plan(path).with_values(values)
    if "methods" not in values:
        raise LongAtlasError("there is nothing to run; give a PLAN.yaml or --methods a,b (see `longatlas list`)")
    return plan_from_values(values)


def print_tables(frame: pd.DataFrame) -> None:
    """The summary of rows, on stdout."""
    from longatlas.harness.summary import summarise

    out = console()
    for made in summarise(frame):
        out.print()
        out.print(Text(made.title, style="italic"))  # as the table's own title it would wrap at a narrow table's width
        out.print(table(made.columns, made.lines))


def flat_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain dicts with null for what is missing."""
    rows: list[dict[str, Any]] = json.loads(frame.to_json(orient="records", double_precision=15))
    return rows


@click.group(invoke_without_command=True)
@store_option
@click.option("--json", "as_json", is_flag=True, help="Print jobs as JSON.")
@click.pass_context
def jobs(context: click.Context, store: str | None, as_json: bool) -> None:
    """Show the queue of jobs, the newest first; the dashboard shows the same ones."""
    from longatlas.store import Store

    context.obj = Store(store)
    if context.invoked_subcommand is None:
        _show_jobs(context.obj, as_json)


def _show_jobs(store: Any, as_json: bool) -> None:
    from longatlas.harness import jobs as queue

    queue.keep_going(store)
    found = queue.jobs(store)
    if as_json:
        print_json([job.as_dict() for job in found])
    elif not found:
        click.echo("No jobs. `longatlas jobs add --methods a,b` or the dashboard's Run page adds one.")
    else:
        lines = [[str(j.id), j.status, f"{j.done}/{j.total}", ",".join(j.methods), j.plan_hash, _now(j)] for j in found]
        console().print(table(["job", "status", "cells", "methods", "plan", "now"], lines))


def _now(job: Job) -> str:
    """What a job measures, how it failed, or why it cannot be run here."""
    return job.error or job.current or job.obstacle


@jobs.command("add")
@click.argument("plan", required=False)
@plan_options
@click.pass_obj
def jobs_add(store: Any, /, plan: str | None, **given: Any) -> None:
    """Queue a plan and return at once; a detached process runs it."""
    from longatlas.harness import jobs as queue

    job = queue.submit(store, make_plan(plan, given))
    click.echo(f"job {job.id} is {job.status}; `longatlas jobs` shows its progress")


@jobs.command("cancel")
@click.argument("number", type=int)
@click.pass_obj
def jobs_cancel(store: Any, number: int) -> None:
    """Stop a job; its finished cells are kept."""
    from longatlas.harness import jobs as queue

    job = queue.cancel(store, number)
    deadline = time.monotonic() + queue.KILL_SECONDS + 5  # by then one that hangs has been killed
    while job.status == queue.RUNNING and time.monotonic() < deadline:
        time.sleep(0.2)
        job = queue.job(store, number)
    queue.keep_going(store)
    click.echo(f"job {job.id} is {job.status}")


@jobs.command("retry")
@click.argument("number", type=int)
@click.pass_obj
def jobs_retry(store: Any, number: int) -> None:
    """Queue the plan of an ended job again, to measure its failed cells once more."""
    from longatlas.harness import jobs as queue

    job = queue.retry(store, number)
    click.echo(f"job {job.id} is {job.status}; it measures again what failed in job {number}")


@jobs.command("log")
@click.option("--lines", default=40, type=click.IntRange(min=1), show_default=True, help="How many of the last lines.")
@click.pass_obj
def jobs_log(store: Any, lines: int) -> None:
    """Show the last lines that jobs wrote."""
    from longatlas.harness import jobs as queue

    path = queue.log_path(store)
    if not path.exists():
        click.echo("No job has run yet.")
        return
    _echo_lines(path.read_text(errors="replace").splitlines()[-lines:])


def _echo_lines(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(harmless(line))
    sys.stdout.flush()
