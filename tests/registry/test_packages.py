"""The parts of longatlas form no circle: each can be read after those that it stands on."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import longatlas

ROOT = Path(longatlas.__file__).parent
Graph = dict[str, set[str]]


def imports(node: ast.AST) -> Iterator[str]:
    """The modules that a tree imports, within functions too, but not for annotations alone."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        for child in node.orelse:
            yield from imports(child)
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from imports(child)


def part_of(name: str, root: Path) -> str:
    """The package or module directly under longatlas that a dotted name lies in; "" for another or longatlas itself."""
    top, _, rest = name.partition(".")
    first = rest.partition(".")[0]
    is_part = (root / first).is_dir() or (root / f"{first}.py").exists()
    return first if top == "longatlas" and first and is_part else ""


def graph_of(root: Path) -> Graph:
    graph: Graph = {}
    for path in sorted(root.rglob("*.py")):
        own = path.relative_to(root).parts[0].removesuffix(".py")
        if own != "__init__":  # it names what others hold, on first use
            asked = {part_of(name, root) for name in imports(ast.parse(path.read_text()))}
            graph.setdefault(own, set()).update(asked - {own, ""})
    return graph


def circle(graph: Graph) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_the_packages_form_no_circle() -> None:
    graph = graph_of(ROOT)
    assert len(graph) > 20
    assert {"store", "measure", "tasks"} <= graph["harness"] | graph["measure"]
    assert circle(graph) == []


@pytest.mark.parametrize(
    ("line", "is_one"),
    [
        ("from longatlas.harness.plan import Plan", True),
        ("import longatlas.harness.plan", True),
        ("from longatlas import harness", True),
        ("def later():\n    from longatlas.harness import plan", True),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from longatlas.harness import plan", False),
        ("from longatlas.errors import LongAtlasError", False),
    ],
)
def test_a_circle_is_seen(tmp_path: Path, line: str, is_one: bool) -> None:
    for package, text in {"harness": "from longatlas.store.store import Store", "store": line}.items():
        (tmp_path / package).mkdir()
        (tmp_path / package / "store.py").write_text(text + "\n")
    (tmp_path / "errors.py").write_text("")
    assert bool(circle(graph_of(tmp_path))) == is_one
