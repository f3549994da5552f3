"""One module's source as it counts: its syntax without comments, docstrings and layout, and what it imports."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib.util import resolve_name
from pathlib import Path

from longatlas.cards import Cost, Method, Option, Task

# Fields of cards that are told to readers, or used by checks alone: no number depends on them. A method's impls count
# through the cell's impl, and the presets of a task through the values of the cell's one.
_TOLD_OF_A_METHOD = ("title", "family", "paper", "summary", "cost", "impls", "requires", "devices", "deviations")
TOLD: Mapping[str, frozenset[str]] = {
    "Method": frozenset((*_TOLD_OF_A_METHOD, "departs", "source", "equations", "exact", "peers")),
    "Task": frozenset(("title", "summary", "paper", "presets", "example")),
    "Option": frozenset(("help",)),
    "Cost": frozenset(field.name for field in fields(Cost)),
}
_PLACES = {card.__name__: [field.name for field in fields(card)] for card in (Method, Task, Option, Cost)}


@dataclass(frozen=True)
class Import:
    """An import, or a name that is taken from one: `name` of `module`, "" = the module itself, "*" = all of it."""

    module: str
    name: str = ""


@dataclass(frozen=True)
class Source:
    """What counts of one module.

    digest   of its syntax
    imports  everything it imports, at its head or inside a function
    binds    name at its head -> where it is imported from; None = made here
    lazy     names that longatlas.lazy.lazy_exports gives it on first use
    computed prefixes of the modules that it imports by a computed name; "" = one that nobody can read
    """

    digest: str
    imports: tuple[Import, ...]
    binds: Mapping[str, Import | None]
    lazy: Mapping[str, Import]
    computed: tuple[str, ...]


def read_source(path: Path, module: str) -> Source:
    """The source of a module as it lies on disk now. Raises OSError where it cannot be read."""
    told = path.stat()
    return _read(path, module, told.st_mtime_ns, told.st_size)


@lru_cache(maxsize=4096)
def _read(path: Path, module: str, changed: int, size: int) -> Source:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return parse_source(path.read_bytes(), package)


def parse_source(text: bytes, package: str) -> Source:
    """The source of a module from its text; `package` is what its relative imports start from."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):  # it counts as it stands
        return Source(hashlib.sha256(text).hexdigest(), (), {}, {}, ())
    tree = _Counted().visit(tree)
    found = _Imports(package)
    found.visit(tree)
    return Source(
        digest=hashlib.sha256(_plain(tree).encode()).hexdigest(),
        imports=tuple(found.all),
        binds=dict(_bindings(tree.body, package)),
        lazy=found.lazy,
        computed=tuple(dict.fromkeys(found.computed)),
    )


def _plain(node: object) -> str:
    """A syntax tree in one spelling, the same under every version of Python that reads it alike."""
    if isinstance(node, ast.AST):
        inner = [
            f"{name}={_plain(value)}"
            for name in node._fields
            if (value := getattr(node, name, None)) is not None and value != []
        ]
        return f"{type(node).__name__}({' '.join(inner)})"
    if isinstance(node, list):
        return f"[{' '.join(map(_plain, node))}]"
    return repr(node)


class _Counted(ast.NodeTransformer):
    """Takes out what no number depends on."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        if _last_name(node.test) != "TYPE_CHECKING":
            return self.generic_visit(node)
        return [kept for statement in node.orelse if (kept := self.visit(statement)) is not None]

    def visit_Call(self, node: ast.Call) -> ast.AST:
        card = _last_name(node.func)
        if card in TOLD:
            told, places = TOLD[card], _PLACES[card]
            node.keywords = [keyword for keyword in node.keywords if keyword.arg not in told]
            node.args = [_blank(arg) if name in told else arg for name, arg in zip(places, node.args, strict=False)]
        return self.generic_visit(node)


def _blank(node: ast.expr) -> ast.expr:
    return ast.copy_location(ast.Constant(None), node)


def _last_name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


class _Imports(ast.NodeVisitor):
    """Collects what a tree imports, by statement or by name in a text."""

    def __init__(self, package: str) -> None:
        self.package = package
        self.named: dict[str, str] = {}  # name -> the module that it stands for, if it is one
        self.attributes: list[tuple[str, str]] = []
        self.importers = {"import_module", "__import__"}
        self.imports: list[Import] = []
        self.lazy: dict[str, Import] = {}
        self.computed: list[str] = []

    @property
    def all(self) -> list[Import]:
        """With `a.b` of an imported a: b may be a module, or a name that a gives on first use."""
        parts = [Import(self.named[name], part) for name, part in self.attributes if name in self.named]
        return list(dict.fromkeys([*self.imports, *parts]))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.imports.append(Import(alias.name))
            self.named |= {alias.asname: alias.name} if alias.asname else {(top := alias.name.partition(".")[0]): top}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for name, taken in _taken(node, self.package):
            self.imports.append(taken)
            self.named[name] = f"{taken.module}.{taken.name}"
            if taken == Import("importlib", "import_module"):
                self.importers.add(name)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.value, ast.Name):
            self.attributes.append((node.value.id, node.attr))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = _last_name(node.func)
        if name in self.importers and node.args:
            self._import_by_text(node.args[0])
        elif name == "lazy_exports" and len(node.args) > 1:
            self._export(node.args[1])
        self.generic_visit(node)

    def _import_by_text(self, text: ast.expr) -> None:
        if isinstance(text, ast.Constant) and isinstance(text.value, str):
            self.imports.append(Import(_absolute(text.value, self.package)))
        elif isinstance(text, ast.JoinedStr) and isinstance(text.values[0], ast.Constant):
            self.computed.append(str(text.values[0].value).rpartition(".")[0])
        else:
            self.computed.append("")

    def _export(self, names: ast.expr) -> None:
        if not isinstance(names, ast.Dict):
            self.computed.append("")
            return
        for name, module in zip(names.keys, names.values, strict=True):
            if isinstance(name, ast.Constant) and isinstance(module, ast.Constant):
                self.lazy[str(name.value)] = Import(_absolute(str(module.value), self.package), str(name.value))
            else:
                self.computed.append("")


def _bindings(body: list[ast.stmt], package: str) -> Iterator[tuple[str, Import | None]]:
    """Names that statements at the head of a module bind; in branches and loops, too."""
    for statement in body:
        match statement:
            case ast.Import():
                yield from ((alias.asname or alias.name, Import(alias.name)) for alias in statement.names)
            case ast.ImportFrom():
                yield from _taken(statement, package)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield statement.name, None
            case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
                yield from ((name, None) for name in _stored(statement))
            case _:
                inner = [child for child in ast.iter_child_nodes(statement) if isinstance(child, ast.excepthandler)]
                for block in (statement, *inner):
                    yield from _bindings([c for c in ast.iter_child_nodes(block) if isinstance(c, ast.stmt)], package)


def _stored(statement: ast.stmt) -> list[str]:
    names = (node for node in ast.walk(statement) if isinstance(node, ast.Name))
    return [name.id for name in names if isinstance(name.ctx, ast.Store)]


def _taken(node: ast.ImportFrom, package: str) -> Iterator[tuple[str, Import]]:
    """`from a import b as c` binds c to b of a."""
    module = _absolute("." * node.level + (node.module or ""), package)
    if module:
        yield from ((alias.asname or alias.name, Import(module, alias.name)) for alias in node.names)


def _absolute(name: str, package: str) -> str:
    try:
        return resolve_name(name, package) if name.startswith(".") else name
    except ImportError:
        return ""
