"""The taxonomy as frames and words: icicle, text tree, papers with their status."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pandas as pd

from longatlas.cards import Method
from longatlas.catalog import Catalog, method_status
from longatlas.taxonomy import Node, Paper, Section
from longatlas_dashboard.safe import web_address

RUNNABLE, NOT_HERE, DESCRIBED = "runnable", "not here", "described"
PAPER_STATUSES = (RUNNABLE, NOT_HERE, DESCRIBED)


@dataclass(frozen=True)
class Entry:
    """A paper of a node, or a method that stands for none of its papers; no method: only described."""

    node: Node
    paper: Paper | None
    method: Method | None
    status: str

    @property
    def name(self) -> str:
        return self.paper.name if self.paper else str(self.method and self.method.title)

    @property
    def text(self) -> str:
        """All words that the search looks at."""
        parts = [self.name, self.node.title, self.node.path]
        if self.paper:
            parts += [self.paper.title, self.paper.first_author, str(self.paper.year)]
        if self.method:
            parts += [self.method.name, self.method.title, self.method.summary]
        return " ".join(parts).lower()


def entries(catalog: Catalog) -> list[Entry]:
    """Every paper of the taxonomy with the method that runs it, and every method, in the taxonomy's order."""
    by_paper: dict[str, Method] = {m.paper: m for m in reversed(catalog.methods.values()) if m.paper}
    return [e for node in catalog.taxonomy.walk() if node.is_leaf for e in _leaf(node, catalog, by_paper)]


def _leaf(node: Node, catalog: Catalog, by_paper: dict[str, Method]) -> Iterator[Entry]:
    shown = set()
    for paper in node.papers:
        method = by_paper.get(paper.arxiv) or by_paper.get(paper.url)
        if method:
            shown.add(method.name)
        yield Entry(node, paper, method, _status(method))
    for method in catalog.methods.values():
        if method.family == node.path and method.name not in shown:
            yield Entry(node, None, method, _status(method))


def _status(method: Method | None) -> str:
    if method is None:
        return DESCRIBED
    status = method_status(method)
    if status == "ready":
        return RUNNABLE
    return DESCRIBED if status == "described only" else NOT_HERE


def under(found: Iterable[Entry], path: str) -> list[Entry]:
    """The entries at or below a path; all for ""."""
    return [e for e in found if not path or f"{e.node.path}/".startswith(f"{path}/")]


def matching(found: Iterable[Entry], words: str, statuses: Iterable[str]) -> list[Entry]:
    """The entries that hold all of the words and have one of the statuses (any, when none is given)."""
    wanted, needles = set(statuses), words.lower().split()
    return [e for e in found if (not wanted or e.status in wanted) and all(needle in e.text for needle in needles)]


def icicle_frame(catalog: Catalog) -> pd.DataFrame:
    """One line per node for charts.icicle: leaves take one row each, inner nodes span theirs."""
    found = entries(catalog)
    records: list[dict[str, object]] = []

    def place(node: Node, depth: int, start: int, family: str) -> int:
        end = start
        record: dict[str, object] = {}
        records.append(record)
        for child in node.children:
            end = place(child, depth + 1, end, family)
        end = max(end, start + 1)
        inside = under(found, node.path)
        ready = sum(e.status == RUNNABLE for e in inside)
        count = f"{ready} of {len(inside)}"
        record |= {
            "path": node.path,
            "title": node.title,
            "label": f"{node.title}  {count}",
            "spoken": f"{ready} runnable, {len(inside)} in all",
            "spoken_name": f"{node.title}: {count} runnable",
            "depth": depth,
            "start": start,
            "end": end,
            "family": family,
            "ready": ready,
        }
        return end

    row = 0
    for root in catalog.taxonomy.roots:
        row = place(root, 0, row, root.title)
    return pd.DataFrame(records)


def entry_frame(found: Iterable[Entry]) -> pd.DataFrame:
    """Papers and methods as a table; `page` is the address of the method's page, "" where there is none."""
    lines = [
        {
            "name": e.name,
            "status": e.status,
            "place": e.node.title,
            "title": e.paper.title if e.paper else str(e.method and e.method.summary),
            "first author": e.paper.first_author if e.paper else "",
            "year": e.paper.year if e.paper else None,
            "page": f"method?id={e.method.name}" if e.method else None,
            "paper": web_address(e.paper.address) or None if e.paper else None,
        }
        for e in found
    ]
    return pd.DataFrame(lines)


def resource_frame(chapter: Section) -> pd.DataFrame:
    """A chapter's resources as a table."""
    lines = [
        {
            "kind": resource.kind,
            "name": resource.name,
            "task": resource.task or None,
            "context, tokens": resource.context,
            "summary": resource.summary,
            "address": web_address(resource.url) or None,
        }
        for resource in chapter.resources
    ]
    return pd.DataFrame(lines)


def by_arxiv(catalog: Catalog, method: Method) -> Paper | None:
    """The taxonomy's paper of a method."""
    for node in catalog.taxonomy.walk():
        for paper in node.papers:
            if method.paper and method.paper in (paper.arxiv, paper.url):
                return paper
    return None


def bibtex(key: str, paper: Paper) -> str:
    """A BibTeX entry from the facts of the taxonomy: the first author, others as `and others`."""
    lines = [
        f"@misc{{{key},",
        f"  title = {{{paper.title}}},",
        f"  author = {{{paper.first_author} and others}},",
        f"  year = {{{paper.year}}},",
    ]
    if paper.arxiv:
        lines += [f"  eprint = {{{paper.arxiv}}},", "  archivePrefix = {arXiv},"]
    lines += [f"  url = {{{paper.address}}},", "}"]
    return "\n".join(lines)
