"""The command `footprint`: what long-term memories keep, by formula and measured."""

from __future__ import annotations

import math
from typing import Any

import click

from longatlas.cli.output import console, print_json, table
from longatlas.footprint import SMALL


@click.command()
@click.option("--layers", default=SMALL.layers, show_default=True, type=click.IntRange(1, 64), help="l")
@click.option("--heads", default=SMALL.heads, show_default=True, type=click.IntRange(1, 128), help="H")
@click.option("--head-size", default=SMALL.head_size, show_default=True, type=click.IntRange(2, 256), help="d_key")
@click.option("--segment", default=SMALL.segment, show_default=True, type=click.IntRange(1, 8192), help="N, tokens")
@click.option("--memory", default=SMALL.memory, show_default=True, type=click.IntRange(1, 1 << 20), help="S, tokens")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def footprint(as_json: bool, **given: Any) -> None:
    """Table 1 of the Infini-attention paper: what each memory keeps, at the paper's setting and at yours.

    Where the method is built in, a decoder of your setting reads past all its memory and its state is walked: the
    numbers in it stand beside the formula's, and the bytes that they are in fp32.
    """
    from longatlas.harness.executor import Request
    from longatlas.harness.findings import value_of
    from longatlas.harness.running import executor_on

    with executor_on("cpu") as executor:
        (reply,) = executor.ask([Request("footprint", given)], math.inf)
        rows = value_of(reply)
    if as_json:
        print_json(rows)
        return
    columns = ["memory", "keeps", "context", "paper's setting", "yours", "measured", "fp32 bytes"]
    console().print(table(columns, [_cells(row) for row in rows]))


def _cells(row: dict[str, Any]) -> list[str]:
    measured = row["measured"]
    found = ["–", "–"] if measured is None else [f"{measured:,}", f"{4 * measured:,}"]
    return [row["name"], row["cache"], row["context"], f"{row['paper'] / 1e6:.1f}M", f"{row['yours']:,}", *found]
