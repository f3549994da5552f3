"""`longatlas demo`: compare methods on speed, memory and quality here, then open the dashboard."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from longatlas.cli.measure import kept_when_interrupted, print_tables, store_option

if TYPE_CHECKING:
    from longatlas.store import Store


@click.command()
@click.option("--corpus", default="", help="File or folder of text; default: the Python standard library's source.")
@click.option("--port", default=8501, show_default=True, help="Port of the dashboard.")
@click.option("--no-serve", is_flag=True, help="End after the comparison.")
@store_option
def demo(corpus: str, port: int, no_serve: bool, store: str | None) -> None:
    """Compare methods on this machine: time and memory at T = 512 ... 4096, and a small language model each.

    Takes a few minutes the first time and seconds after that, because finished cells are kept.
    """
    from longatlas.harness.demo import demo_plan
    from longatlas.harness.progress import progress_bar
    from longatlas.harness.running import run
    from longatlas.store import Store

    if not no_serve:
        from longatlas_dashboard.commands.dashboard import check_port

        check_port(port)
    opened = Store(store)
    with kept_when_interrupted(), progress_bar() as progress:
        frame = run(demo_plan(corpus), store=opened, progress=progress)
    print_tables(frame)
    _influence_maps(opened)
    click.echo(f"\nStored in {opened.name}")
    if not no_serve:
        from longatlas_dashboard.commands.dashboard import serve

        serve(port=port, store=store)


def _influence_maps(store: Store) -> None:
    """What each method attends to, for its page; one that cannot be differentiated says so there."""
    from longatlas.catalog import load_catalog, method_status
    from longatlas.combination import as_combination
    from longatlas.harness.findings import find_all

    ready = [method for method in load_catalog().methods.values() if method_status(method) == "ready"]
    for spec, reason in find_all(store, "influence", map(as_combination, ready)).items():
        click.echo(f"No influence map of {spec}: {reason}", err=True)
