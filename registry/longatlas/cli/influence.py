"""`longatlas influence`: which earlier tokens an output depends on, as a picture of characters."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from longatlas.cli.output import print_json
from longatlas.measure.influence_map import MOST_TOKENS, Influence

if TYPE_CHECKING:
    from longatlas.combination import Combination

SHADES = "·░▒▓█"  # each a factor of ten of a row's largest value


@click.command()
@click.argument("specs", nargs=-1, required=True)
@click.option(
    "--tokens", type=int, help="Length of the sequence, 2 to 256.  [default: 32, or 64 where 32 is too short]"
)
@click.option("--layers", type=int, default=1, show_default=True, help="Of the decoder, 1 to 8.")
@click.option("--json", "as_json", is_flag=True, help="Print a list of maps with their values.")
def influence(specs: tuple[str, ...], tokens: int | None, layers: int, as_json: bool) -> None:
    """Differentiate methods' code: a row per output token, a column per input token, blank for no dependence.

    Options in tokens longer than half the sequence are scaled to fit into it; --tokens makes it longer.

    \b
    Examples:
      longatlas influence sliding_window:window=8
      longatlas influence infini_attention --layers 2
    """
    from longatlas.combination import parse_spec

    combinations = [parse_spec(spec) for spec in specs]
    made = _made(dict.fromkeys(combination.spec for combination in combinations), tokens, layers)
    maps = [made[combination.spec] for combination in combinations]
    for combination, each in zip(combinations, maps, strict=True):
        tell_of_scaling(combination, each)
    if as_json:
        print_json([each.as_dict() for each in maps])
        return
    for each in maps:
        click.echo(f"{each.spec}, {each.tokens} tokens, {each.layers} layer{'s' * (each.layers > 1)}")
        for row in each.relative:
            click.echo("".join(shade(value) for value in row).rstrip())


def _made(specs: Iterable[str], tokens: int | None, layers: int) -> dict[str, Influence]:
    from longatlas.harness.executor import Request
    from longatlas.harness.findings import value_of
    from longatlas.harness.running import executor_on

    requests = [Request("influence", {"spec": spec, "tokens": tokens, "layers": layers}) for spec in specs]
    with executor_on("cpu") as executor:
        replies = executor.ask(requests, math.inf, together=True)
        return {reply.request.arguments["spec"]: Influence.from_dict(value_of(reply)) for reply in replies}


def tell_of_scaling(combination: Combination, made: Influence) -> None:
    """Say on stderr where a map is of other options than were asked for."""
    if made.spec == combination.spec:
        return
    longest = max(
        int(part.options[option.name])
        for part in combination.parts
        for option in part.method.options
        if option.unit == "tokens"
    )
    remedy = f"give --tokens {2 * longest}"
    if 2 * longest > MOST_TOKENS:
        remedy = f"choose them of at most {MOST_TOKENS // 2} and give --tokens {MOST_TOKENS}"
    click.echo(
        f"influence of '{combination.spec}' is that of '{made.spec}': options longer than half of {made.tokens} "
        f"tokens are scaled to fit; {remedy}",
        err=True,
    )


def shade(share: float) -> str:
    """Two characters for a value relative to its row's largest."""
    if share <= 0:
        return "  "
    decades = next((step for step in range(len(SHADES) - 1) if share >= 10.0 ** -(step + 1)), len(SHADES) - 1)
    return SHADES[len(SHADES) - 1 - decades] * 2
