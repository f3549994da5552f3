"""The survey's taxonomy: families, nodes, papers, evaluation and toolkits, read from taxonomy.yaml."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from longatlas import yamlfile
from longatlas.errors import LongAtlasError, unknown_name
from longatlas.slots import SLOTS
from longatlas.words import arxiv_address, is_arxiv

FAMILIES = (
    "efficient_attention",
    "long_term_memory",
    "extrapolative_pes",
    "context_processing",
    "misc",
)
_ID = re.compile(r"[a-z][a-z0-9_]*")
MODULES = (*SLOTS, "decoder")


@dataclass(frozen=True)
class Paper:
    """A paper of a leaf. `added` marks what the survey's own list does not have."""

    name: str
    title: str
    year: int
    first_author: str
    arxiv: str = ""
    url: str = ""
    code: str = ""
    added: bool = False

    @property
    def address(self) -> str:
        return arxiv_address(self.arxiv) if self.arxiv else self.url


@dataclass(frozen=True)
class Node:
    """A place in the taxonomy. A leaf has papers, an inner node has children.

    path    ids joined by '/', as a method's `family`
    module  the part of the decoder that its methods change: a slot, or `decoder`
    """

    id: str
    path: str
    title: str
    summary: str
    module: str
    children: tuple[Node, ...] = ()
    papers: tuple[Paper, ...] = ()

    @property
    def is_leaf(self) -> bool:
        return not self.children

    def walk(self) -> Iterator[Node]:
        """This node and all below it, parents first."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True)
class Resource:
    """A dataset, metric, baseline model, library, system or compiler of the survey's other chapters."""

    kind: str
    name: str
    summary: str
    task: str = ""
    context: int | None = None
    url: str = ""


@dataclass(frozen=True)
class Section:
    """A chapter beside the families: its title, summary and resources."""

    title: str
    summary: str
    resources: tuple[Resource, ...]


@dataclass(frozen=True)
class Taxonomy:
    """The whole tree. `roots` are the preliminaries and the five families, in the survey's order."""

    title: str
    arxiv: str
    url: str
    roots: tuple[Node, ...]
    evaluation: Section
    toolkits: Section

    @property
    def families(self) -> tuple[Node, ...]:
        return self.roots[1:]

    def walk(self) -> Iterator[Node]:
        for root in self.roots:
            yield from root.walk()

    @property
    def leaves(self) -> tuple[Node, ...]:
        return tuple(node for family in self.families for node in family.walk() if node.is_leaf)

    def node(self, path: str) -> Node:
        """The node at `path`. Raises UnknownNameError with a suggestion."""
        for node in self.walk():
            if node.path == path:
                return node
        raise unknown_name("family", path, [n.path for n in self.walk()], "see `longatlas taxonomy`")

    def leaf(self, path: str) -> Node:
        """The leaf at `path`. Raises LongAtlasError when it is an inner node, naming its leaves."""
        node = self.node(path)
        if not node.is_leaf:
            leaves = [n.path for n in node.walk() if n.is_leaf]
            raise LongAtlasError(
                f"family '{path}' is an inner node of the taxonomy; give one of its leaves: {', '.join(leaves)}"
            )
        return node


def taxonomy_path() -> Path:
    """LONGATLAS_TAXONOMY, else the file in the wheel, else the one at the top of the checkout."""
    override = os.environ.get("LONGATLAS_TAXONOMY")
    if override:
        return Path(override)
    here = Path(__file__).resolve().parent
    for candidate in (here / "taxonomy.yaml", here.parents[1] / "taxonomy.yaml"):
        if candidate.is_file():
            return candidate
    raise LongAtlasError(
        f"taxonomy.yaml is missing: looked in {here} and {here.parents[1]}; reinstall longatlas, or set "
        "LONGATLAS_TAXONOMY to its path"
    )


def load_taxonomy(path: Path | None = None) -> Taxonomy:
    """Read and check a taxonomy. Raises LongAtlasError with file, line and what was expected."""
    return _load(path or taxonomy_path())


@lru_cache(maxsize=4)
def _load(path: Path) -> Taxonomy:
    top = yamlfile.read(path)
    version = top.get("version", int)
    if version != 1:
        raise top.key_error("version", f"is {version}; this longatlas reads version 1")
    survey = top.entry("survey")
    title, arxiv, url = (survey.get(key, str) for key in ("title", "arxiv", "url"))
    survey.get("year", int)
    survey.get("repository", str, "")
    survey.finish()
    roots = (_preliminaries(top), *_families(top))
    taxonomy = Taxonomy(
        title,
        arxiv,
        url,
        roots,
        _section(top, "evaluation", ("datasets", "metrics", "baselines")),
        _section(top, "toolkits", ("libraries", "systems", "compilers")),
    )
    top.finish()
    return taxonomy


def _preliminaries(top: yamlfile.Entry) -> Node:
    entry = top.entry("preliminaries")
    node = Node(
        "preliminaries",
        "preliminaries",
        entry.get("title", str),
        entry.get("summary", str),
        _module(entry, ""),
    )
    entry.finish()
    return node


def _families(top: yamlfile.Entry) -> Iterator[Node]:
    families = top.entry("families")
    for name in FAMILIES:
        yield _node(families.entry(name), name, name, "")
    families.finish(FAMILIES)


def _module(entry: yamlfile.Entry, inherited: str) -> str:
    module: str = entry.get("module", str, inherited or ...)
    if module not in MODULES:
        raise entry.key_error("module", str(unknown_name("module of the decoder", module, MODULES)))
    return module


def _node(entry: yamlfile.Entry, name: str, path: str, module: str) -> Node:
    module = _module(entry, module)
    title, summary = entry.get("title", str), entry.get("summary", str)
    if entry.has("children") == entry.has("papers"):
        raise entry.error("must have either 'children' (an inner node) or 'papers' (a leaf; the list may be empty)")
    children: list[Node] = []
    if entry.has("children"):
        below = entry.entry("children")
        children = [_node(below.entry(key), key, f"{path}/{key}", module) for key in below.names]
        if not children:
            raise entry.key_error("children", "is empty; expected at least one node")
    for child in children:
        if not _ID.fullmatch(child.id):
            raise entry.key_error("children", f"has the id '{child.id}'; ids are of small letters, digits and '_'")
    papers = [_paper(paper) for paper in entry.entries("papers")]
    names = [paper.name for paper in papers]
    for name_ in names:
        if names.count(name_) > 1:
            raise entry.key_error("papers", f"has the name '{name_}' twice; names are unique in a leaf")
    entry.finish()
    return Node(name, path, title, summary, module, tuple(children), tuple(papers))


def _paper(entry: yamlfile.Entry) -> Paper:
    paper = Paper(
        name=entry.get("name", str),
        title=entry.get("title", str),
        year=entry.get("year", int),
        first_author=entry.get("first_author", str),
        arxiv=entry.get("arxiv", str, ""),
        url=entry.get("url", str, ""),
        code=entry.get("code", str, ""),
        added=entry.get("added", bool, False),
    )
    entry.finish()
    if not (paper.arxiv or paper.url):
        raise entry.error(f"('{paper.name}') has neither 'arxiv' nor 'url'; expected one of them")
    if paper.arxiv and not is_arxiv(paper.arxiv):
        raise entry.key_error("arxiv", f"is '{paper.arxiv}'; expected an id such as \"2311.12351\"")
    if not 1900 <= paper.year < 2100:
        raise entry.key_error("year", f"is {paper.year}; expected a year from 1900 to 2099")
    for key in ("url", "code"):
        value = getattr(paper, key)
        if value and not value.startswith(("https://", "http://")):
            raise entry.key_error(key, f"is '{value}'; expected an address that starts with https:// or http://")
    return paper


def _section(top: yamlfile.Entry, key: str, kinds: tuple[str, ...]) -> Section:
    entry = top.entry(key)
    title, summary = entry.get("title", str), entry.get("summary", str)
    resources = [_resource(item, kind) for kind in kinds for item in entry.entries(kind)]
    entry.finish()
    return Section(title, summary, tuple(resources))


def _resource(entry: yamlfile.Entry, kind: str) -> Resource:
    arxiv = entry.get("arxiv", str, "")
    url = entry.get("url", str, "")
    resource = Resource(
        kind=kind,
        name=entry.get("name", str),
        summary=entry.get("summary", str),
        task=entry.get("task", str, ""),
        context=entry.get("context", int, None),
        url=url or (arxiv_address(arxiv) if arxiv else ""),
    )
    entry.finish()
    return resource
