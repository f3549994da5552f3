"""`longatlas influence`: which earlier tokens an output depends on, as a picture of characters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from longatlas.cli.output import print_json
from longatlas.errors import LongAtlasError

if TYPE_CHECKING:
    from longatlas.combination import Combination
    from longatlas.measure.influence_map import Influence

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

    found = [_map_of(combination, tokens, layers) for combination in map(parse_spec, specs)]
    if as_json:
        print_json([each.as_dict() for each in found])
        return
    for each in found:
        click.echo(f"{each.spec}, {each.tokens} tokens, {each.layers} layer{'s' * (each.layers > 1)}")
        for row in each.relative:
            click.echo("".join(shade(value) for value in row).rstrip())


def _map_of(combination: Combination, tokens: int | None, layers: int) -> Influence:
    from longatlas.measure.influence import influence as differentiate

    try:
        found = differentiate(combination, tokens=tokens, layers=layers)
        _tell_of_scaling(combination, found)
        return found
    except LongAtlasError:
        raise
    except Exception as error:
        raise LongAtlasError(
            f"method '{combination.spec}' cannot be differentiated: {type(error).__name__}: {error}; "
            f"`longatlas verify {combination.name}` checks it"
        ) from error


def _tell_of_scaling(combination: Combination, found: Influence) -> None:
    """Say on stderr where a map is of other options than were asked for."""
    from longatlas.measure.influence import MOST_TOKENS

    if found.spec == combination.spec:
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
        f"influence of '{combination.spec}' is that of '{found.spec}': options longer than half of {found.tokens} "
        f"tokens are scaled to fit; {remedy}",
        err=True,
    )


def shade(share: float) -> str:
    """Two characters for a value relative to its row's largest."""
    if share <= 0:
        return "  "
    decades = next((step for step in range(len(SHADES) - 1) if share >= 10.0 ** -(step + 1)), len(SHADES) - 1)
    return SHADES[len(SHADES) - 1 - decades] * 2
