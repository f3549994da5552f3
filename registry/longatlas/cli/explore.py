"""`longatlas list`, `show` and `plugins`: what is installed, and what it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import click
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from longatlas.cards import PEER, Method, Option, OptionValue
from longatlas.catalog import Catalog, auto_impl, load_catalog, method_status, obstacles
from longatlas.cli.output import console, print_json, status_text, table
from longatlas.combination import call_with_options
from longatlas.flops import Call
from longatlas.plugins import Fault, Plugin
from longatlas.taxonomy import Node
from longatlas.trainings import training_words
from longatlas.words import arxiv_address, is_arxiv

# The case of which the formulas of a card are told: a prefill, and the token after it.
PREFILL = Call(tokens=4096, past=0, heads=8, head_size=64)
_WEB = re.compile(r"https?://[^\s<>\"]+")
FAILS = "not known: the card's `{}` fails or gives no number for this case"


@click.command("list")
@click.option("--family", default="", metavar="PATH", help="Only methods under this path of the taxonomy.")
@click.option("--status", default="", help="Only methods with this status: ready, needs, described only, broken.")
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects.")
def list_methods(family: str, status: str, as_json: bool) -> None:
    """List the methods and whether they can run here."""
    catalog = load_catalog()
    methods = catalog.select(family, status)
    if as_json:
        print_json([_facts(method) for method in methods])
        return
    out = console()
    rows = [(m.name, m.title, m.family, method_status(m), ", ".join(m.fills), m.training) for m in methods]
    out.print(table(("name", "title", "family", "status", "slots", "training"), rows))
    out.print(f"{len(methods)} of {len(catalog.methods)} methods")
    if catalog.faults:
        out.print(f"{_broken(catalog.faults)}: `longatlas plugins` says why", style="red")


def _broken(faults: Sequence[Fault]) -> str:
    """How many plugins and how many cards are broken, such as "2 broken plugins, 1 broken card"."""
    cards = sum(1 for fault in faults if fault.card)
    counts = {"plugin": len(faults) - cards, "card": cards}
    return ", ".join(f"{count} broken {kind}{'s' * (count > 1)}" for kind, count in counts.items() if count)


def _facts(method: Method) -> dict[str, Any]:
    return {
        "name": method.name,
        "title": method.title,
        "family": method.family,
        "paper": method.paper,
        "summary": method.summary,
        "status": method_status(method),
        "slots": list(method.fills),
        "training": method.training,
        "options": [asdict(option) for option in method.options],
        "cost": asdict(method.cost),
    }


@click.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
def show(name: str, as_json: bool) -> None:
    """Show the whole card of a method."""
    catalog = load_catalog()
    method = catalog.method(name)
    leaf = catalog.taxonomy.leaf(method.family)
    if as_json:
        print_json(_card(catalog, method, leaf))
        return
    out = console()
    out.print(Text(f"{method.title} ({method.name})", style="bold"))
    out.print(method.summary)
    out.print(_card_table(catalog, method))
    if method.options:
        out.print(table(("option", "default", "meaning", "unit", "allowed"), map(_option_row, method.options)))
    if method.equations:
        out.print(_block("Equations (LaTeX)", method.equations))
    if leaf.papers:
        papers = [f"{p.name} ({p.first_author}, {p.year}) {p.address}" for p in leaf.papers]
        out.print(_block(f"Papers beside it under {leaf.title}", papers))


def _card(catalog: Catalog, method: Method, leaf: Node) -> dict[str, Any]:
    impl, reason = auto_impl(method)
    return {
        **_facts(method),
        "paper_address": paper_address(method),
        "family_titles": _titles(catalog, method.family),
        "tunes": method.tunes,
        "calibrate": method.calibrate is not None,
        "teacher": asdict(method.teacher) if method.teacher else None,
        "sampler": method.sampler is not None,
        "impls": list(method.impls),
        "peers": {name: peer.install for name, peer in method.peers.items()},
        "auto_impl": impl,
        "auto_reason": reason,
        "requires": list(method.requires),
        "devices": list(method.devices),
        "deviations": method.deviations,
        "source": method.source,
        "equations": list(method.equations),
        "exact": method.exact,
        "ranks": method.ranks,
        "plugin": catalog.plugin_of(method.name).name,
        "remedies": [remedy for _, remedy in obstacles(method)],
        "formulas": _formulas(method),
        "papers": [{**asdict(paper), "address": paper.address} for paper in leaf.papers],
    }


def _formulas(method: Method) -> dict[str, int | float | None]:
    """What the card's formulas give for PREFILL, its options at their defaults; None where it has no formula."""
    options, after = method.resolve_options({}), replace(PREFILL, tokens=1, past=PREFILL.tokens)
    cases = {
        "prefill_flops": (method.flops, PREFILL),
        "decode_flops": (method.flops, after),
        "state_size": (method.state_size, PREFILL),
    }
    found = {key: _value(formula, call, options) for key, (formula, call) in cases.items()}
    return {"tokens": PREFILL.tokens, "heads": PREFILL.heads, "head_size": PREFILL.head_size, **found}


def _value(formula: Callable[..., Any] | None, call: Call, options: Mapping[str, OptionValue]) -> int | float | None:
    """What a formula gives; None where there is none, and where it fails or gives no number: its card is shown all the
    same."""
    try:
        found = formula and call_with_options(formula, call, options)
    except Exception:
        return None
    return found if isinstance(found, int | float) and not isinstance(found, bool) else None


def _formula_rows(method: Method) -> dict[str, str]:
    found = _formulas(method)
    case = f"one layer of {PREFILL.heads} heads of {PREFILL.head_size}, by formula"
    rows = {"operations": "", "state": ""}
    if method.flops:
        prefill, decode = found["prefill_flops"], found["decode_flops"]
        rows["operations"] = FAILS.format("flops")
        if prefill is not None and decode is not None:
            rows["operations"] = f"{prefill:,} for {PREFILL.tokens} tokens, {decode:,} for the next one ({case})"
    if method.state_size:
        size = found["state_size"]
        rows["state"] = FAILS.format("state_size")
        if size is not None:
            rows["state"] = f"{size:,} numbers after {PREFILL.tokens} tokens ({case})"
    return rows


def _card_table(catalog: Catalog, method: Method) -> Table:
    impl, reason = auto_impl(method)
    rows = {
        "status": method_status(method),
        "remedy": "; ".join(remedy for _, remedy in obstacles(method)),
        "paper": paper_address(method) or method.paper,
        "family": f"{method.family} ({' > '.join(_titles(catalog, method.family))})",
        "slots": ", ".join(method.fills),
        "cost": f"time {method.cost.time}, state {method.cost.state} (claimed)",
        **_formula_rows(method),
        "impls": f"{', '.join(method.impls)}; auto is '{impl}' here: {reason}",
        "peers": ", ".join(f"{PEER}{name}" for name in method.peers),
        "training": training_words(method),
        "requires": ", ".join(method.requires),
        "devices": ", ".join(method.devices),
        "deviations": method.deviations,
        "source": method.source,
        "plugin": catalog.plugin_of(method.name).name,
    }
    grid = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        if value:
            grid.add_row(Text(name, style="dim"), status_text(value) if name == "status" else value)
    return grid


def _titles(catalog: Catalog, path: str) -> list[str]:
    """The titles of the nodes from the family down to `path`."""
    ids = path.split("/")
    return [catalog.taxonomy.node("/".join(ids[: i + 1])).title for i in range(len(ids))]


def paper_address(method: Method) -> str:
    """Where the paper can be read: arXiv for an id, the address on the card where it is one of the web, else ""."""
    if is_arxiv(method.paper):
        return arxiv_address(method.paper)
    return method.paper if _WEB.fullmatch(method.paper) else ""


def _option_row(option: Option) -> tuple[str, str, str, str, str]:
    default = str(option.default).lower() if isinstance(option.default, bool) else str(option.default)
    return option.name, default, option.help, option.unit, option.rule.words


def _block(title: str, lines: tuple[str, ...] | list[str]) -> Group:
    return Group("", Text(title, style="bold"), *(Padding(Text(line), (0, 0, 0, 2)) for line in lines))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects.")
def plugins(as_json: bool) -> None:
    """List the plugins: what each brings, and what is wrong with those that are broken."""
    loaded = load_catalog().plugins
    if as_json:
        print_json([_plugin(plugin) for plugin in loaded])
        return
    rows = []
    for plugin in loaded:
        brings = ", ".join([*(method.name for method in plugin.methods), *(task.name for task in plugin.tasks)])
        status = f"broken: {plugin.error}" if plugin.error else "ok"
        rows.append((plugin.name, plugin.distribution, plugin.version, brings, status))
        rows += [(plugin.name, "", "", fault.card, f"broken: {fault.error}") for fault in plugin.broken]
    console().print(table(("name", "distribution", "version", "brings", "status"), rows))


def _plugin(plugin: Plugin) -> dict[str, Any]:
    return {
        "name": plugin.name,
        "version": plugin.version,
        "distribution": plugin.distribution,
        "methods": [method.name for method in plugin.methods],
        "tasks": [task.name for task in plugin.tasks],
        "error": plugin.error,
        "broken": [{"card": fault.card, "error": fault.error} for fault in plugin.broken],
    }
