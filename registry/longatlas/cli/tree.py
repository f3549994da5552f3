"""`longatlas taxonomy`: the survey's tree, with what runs at each place."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.text import Text
from rich.tree import Tree

from longatlas.catalog import Catalog, load_catalog, method_status
from longatlas.cli.output import console, print_json, status_text
from longatlas.taxonomy import Node, Section, load_taxonomy


@click.command()
@click.argument("path", default="")
@click.option("--papers", is_flag=True, help="Show the papers of each leaf (a PATH does so too).")
@click.option("--check", metavar="FILE", default="", help="Check a taxonomy file instead.")
@click.option("--json", "as_json", is_flag=True, help="Print objects.")
def taxonomy(path: str, papers: bool, check: str, as_json: bool) -> None:
    """Show the survey's tree, or the part of it under PATH."""
    if check:
        _check(Path(check))
        return
    catalog = load_catalog()
    tree = catalog.taxonomy
    if as_json:
        print_json(_node(catalog, tree.node(path)) if path else _whole(catalog))
    elif path:
        console().print(_branch(catalog, tree.node(path), True))
    else:
        root = Tree(Text(f"{tree.title} ({tree.url})", style="bold"))
        for node in tree.roots:
            root.add(_branch(catalog, node, papers))
        for section in (tree.evaluation, tree.toolkits):
            root.add(_label(section.title, _counts(section), ""))
        console().print(root)


def _check(file: Path) -> None:
    tree = load_taxonomy(file)
    papers = sum(len(leaf.papers) for leaf in tree.leaves)
    click.echo(f"ok: {len(tree.families)} families, {len(tree.leaves)} leaves, {papers} papers")


def _branch(catalog: Catalog, node: Node, papers: bool) -> Tree:
    """The node as a tree: its children, the methods under it, and its papers if wanted."""
    tree = Tree(_label(node.title, _sizes(catalog, node), node.path))
    if papers:
        tree.add(Text(node.summary, style="italic"))
    for child in node.children:
        tree.add(_branch(catalog, child, papers))
    for name, status in _methods(catalog, node) if node.is_leaf else []:
        tree.add(Text(f"{name}  ", style="bold cyan") + status_text(status))
    if papers:
        for paper in node.papers:
            tree.add(Text(f"{paper.name}: {paper.title} ({paper.first_author}, {paper.year}) {paper.address}"))
    return tree


def _label(title: str, counts: str, path: str) -> Text:
    return Text(title, style="bold") + Text(f"  {counts}  ", style="not bold") + Text(path, style="dim not bold")


def _sizes(catalog: Catalog, node: Node) -> str:
    ready = sum(status == "ready" for _, status in _methods(catalog, node))
    return f"{_number(_paper_count(node), 'paper')}, {ready} runnable"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _paper_count(node: Node) -> int:
    return sum(len(below.papers) for below in node.walk())


def _methods(catalog: Catalog, node: Node) -> list[tuple[str, str]]:
    return [(method.name, method_status(method)) for method in catalog.select(node.path)]


def _counts(section: Section) -> str:
    kinds = [resource.kind for resource in section.resources]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))


def _whole(catalog: Catalog) -> dict[str, Any]:
    tree = catalog.taxonomy
    return {
        "title": tree.title,
        "arxiv": tree.arxiv,
        "url": tree.url,
        "roots": [_node(catalog, node) for node in tree.roots],
        "evaluation": asdict(tree.evaluation),
        "toolkits": asdict(tree.toolkits),
    }


def _node(catalog: Catalog, node: Node) -> dict[str, Any]:
    found = _methods(catalog, node)
    return {
        "id": node.id,
        "path": node.path,
        "title": node.title,
        "summary": node.summary,
        "module": node.module,
        "paper_count": _paper_count(node),
        "runnable_count": sum(status == "ready" for _, status in found),
        "methods": [{"name": n, "status": s} for n, s in found] if node.is_leaf else [],
        "papers": [{**asdict(paper), "address": paper.address} for paper in node.papers],
        "children": [_node(catalog, child) for child in node.children],
    }
