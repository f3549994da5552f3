"""The command `compare`: two sets of results side by side, and a gate for continuous integration."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from longatlas.cli.measure import json_option, store_option
from longatlas.cli.output import console, print_json, table
from longatlas.errors import LongAtlasError

if TYPE_CHECKING:
    from longatlas.compare.comparison import Comparison, Line
    from longatlas.compare.gate import Verdict

SHOWN = 60  # lines of a table


@click.command()
@click.argument("sides", nargs=-1, metavar="[BASELINE] [CANDIDATE]")
@click.option("--baseline", help="The baseline, in place of the first argument; `shipped` is the one that is shipped.")
@click.option("--fail", "rules", help="Exit with 1 where worse than this: median:5%,peak_bytes:2%,accuracy:-1pt.")
@click.option("--allow-missing", is_flag=True, help="What the candidate lacks does not fail.")
@click.option("--methods", default="", metavar="A,B,...", help="Only these methods (every spec) or specs.")
@click.option("--all", "everything", is_flag=True, help="Show what is the same, too.")
@store_option
@json_option
def compare(
    sides: tuple[str, ...],
    baseline: str | None,
    rules: str | None,
    allow_missing: bool,
    methods: str,
    everything: bool,
    store: str | None,
    as_json: bool,
) -> None:
    """Compare CANDIDATE (the current store) with BASELINE, each measurement with its like.

    Each is a store (path or URL), a .csv, .json or .parquet file of `results export` or `--json`, a file that
    pytest-benchmark saved, or the word `shipped`. A difference inside the intervals is not called one. Between two
    machines only ratios to vanilla are compared.

    \\b
    Exit codes: 0, 1 (worse than --fail allows, or missing), 2 (usage).
    Examples:
      longatlas compare before.sqlite --fail "median:5%,peak_bytes:2%,accuracy:-1pt"
      longatlas compare before.json after.json
      longatlas compare --baseline shipped
    """
    from longatlas.compare import compare as compare_sides
    from longatlas.compare import load_side, parse_rules
    from longatlas.compare.gate import judge

    given = [*([baseline] if baseline else []), *sides]
    if not given or len(given) > 2:
        raise LongAtlasError("compare takes a BASELINE and perhaps a CANDIDATE; see `longatlas compare --help`")
    checked = parse_rules(rules) if rules is not None else []
    left, right = load_side(given[0]), load_side(given[1] if len(given) == 2 else store)
    chosen = [name.strip() for name in methods.split(",") if name.strip()]
    found = compare_sides(left, right, chosen)
    verdict = judge(found, checked, allow_missing=allow_missing) if rules is not None else None
    if as_json:
        print_json(_as_rows(found, verdict))
    else:
        _show(found, verdict, everything)
    if verdict is not None and not verdict.passed:
        sys.exit(1)


def _as_rows(found: Comparison, verdict: Verdict | None) -> list[dict[str, object]]:
    fired: dict[int, list[str]] = {}
    for line, reason in verdict.failures if verdict else ():
        fired.setdefault(id(line), []).append(reason)
    return [{**line.as_dict(), "across": found.across, "fails": fired.get(id(line), [])} for line in found.lines]


def _show(found: Comparison, verdict: Verdict | None, everything: bool) -> None:
    from longatlas.compare.comparison import BETTER, DIFFERENT, MISSING, NEW, SAME, WORSE

    out = console()
    out.print(f"baseline  {found.baseline}\ncandidate {found.candidate}", highlight=False, soft_wrap=True)
    if found.across:
        out.print("The sides are of different machines: values are ratios to vanilla on each.")
    if found.left_out:
        out.print(f"Left out: {found.left_out} cells of machines or settings that one side lacks.", highlight=False)
    whole = {} if everything else _whole_methods(found)
    wanted = found.of(WORSE, BETTER, DIFFERENT, MISSING, NEW, *((SAME,) if everything else ()))
    shown = [line for line in wanted if line.method not in whole]
    if shown:
        columns = ["method", "measured", "T", "metric", "baseline", "candidate", "change", "verdict"]
        out.print(table(columns, [_cells(line) for line in shown[:SHOWN]]))
    if len(shown) > SHOWN:
        out.print(f"... and {len(shown) - SHOWN} more; --json has all of them.")
    for word in (MISSING, NEW):
        names = ", ".join(method for method, verdict in whole.items() if verdict == word)
        if names:
            out.print(f"{word} altogether: {names}", highlight=False, soft_wrap=True)
    counted = ", ".join(
        f"{len(found.of(word))} {word}" for word in (WORSE, BETTER, SAME, DIFFERENT, MISSING, NEW) if found.of(word)
    )
    out.print(f"{len(found.lines)} compared: {counted}.", highlight=False)
    if verdict is not None:
        _show_verdict(verdict)


def _whole_methods(found: Comparison) -> dict[str, str]:
    """Methods that only one side has at all, with the verdict of all their lines: each needs one line only."""
    verdicts: dict[str, set[str]] = {}
    for line in found.lines:
        verdicts.setdefault(line.method, set()).add(line.verdict)
    return {method: words.pop() for method, words in verdicts.items() if words in ({"missing"}, {"new"})}


def _show_verdict(verdict: Verdict) -> None:
    out = console()
    if verdict.passed:
        out.print("passed: nothing is worse than the rules allow")
        return
    out.print(f"FAILED: {len(verdict.failures)} beyond the rules", highlight=False)
    for line, reason in verdict.failures:
        change = "" if line.change is None else f" {line.change:+.1%}"
        where = " ".join(filter(None, (line.method, line.phase, f"T={line.T}" if line.T else "", line.metric)))
        out.print(f"  {where}:{change} ({reason})", highlight=False, soft_wrap=True, markup=False)


def _cells(line: Line) -> list[str]:
    place = " ".join(filter(None, (line.measure, line.phase, line.level if line.level != "decoder" else "")))
    old = _number(line.baseline, line.unit) if line.metric else line.baseline_status or "–"
    new = _number(line.candidate, line.unit) if line.metric else line.candidate_status or "–"
    change = "" if line.change is None else f"{line.change:+.1%}"
    return [line.method, place, str(line.T or ""), line.metric or "status", old, new, change, line.verdict]


def _number(value: float | None, unit: str) -> str:
    return "–" if value is None else f"{value:.4g} {unit}".rstrip()
