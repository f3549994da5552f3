"""`longatlas published`: what papers report, beside what is measured here."""

from __future__ import annotations

from dataclasses import asdict

import click

from longatlas.cli.output import console, print_json, table
from longatlas.errors import unknown_name
from longatlas.published import Point, load_points


@click.command()
@click.option("--task", default="", metavar="NAME", help="Only points of this benchmark.")
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects.")
def published(task: str, as_json: bool) -> None:
    """List values that papers report, with their sources; they are never mixed with measured ones."""
    points = load_points()
    if task:
        known = {point.task for point in points}
        if task not in known:
            raise unknown_name("task with published points:", task, known)
        points = [point for point in points if point.task == task]
    if as_json:
        print_json([{**asdict(point), "address": point.source.address} for point in points])
        return
    columns = ("task", "name", "metric", "value", "unit", "source", "setting")
    console().print(table(columns, map(_line, points)))


def _line(point: Point) -> tuple[str, str, str, float, str, str, str]:
    source = f"arXiv:{point.source.paper}, {point.source.place}"
    return point.task, point.name, point.metric, point.value, point.unit, source, point.setting
