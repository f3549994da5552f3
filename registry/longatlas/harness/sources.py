"""Which source files a method is made of: what a change of must measure it again."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import resolve_name
from pathlib import Path

from longatlas.combination import Combination
from longatlas.errors import LongAtlasError


def source_digest(combination: Combination) -> str:
    """Hash of the source files of a combination's builders (see source_files).

    Raises LongAtlasError for a file that was there when its plugin was loaded and cannot be read any more.
    """
    digest = hashlib.sha256()
    for part in combination.parts:
        for builder in part.method.fills.values():
            try:
                for path in source_files(builder.__module__):
                    digest.update(path.name.encode() + path.read_bytes())
            except OSError as error:
                raise LongAtlasError(
                    f"the source of method '{part.method.name}' cannot be read any more: {error.filename}: "
                    f"{error.strerror}; install its plugin again and start longatlas anew"
                ) from None
    return digest.hexdigest()[:16]


def source_files(module: str) -> list[Path]:
    """A builder's module, all of its package where the module is a package, and every module of the same top-level
    package that these import, directly or not, at their head or inside a function.

    Nothing is imported. Other distributions' code counts by its version, longatlas's own by the engine's hash.
    """
    found: set[Path] = set()
    waiting = [module]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for path, owner in _files(name):
            found.add(path)
            waiting += [target for target in _imports(path, owner) if _same_top(target, module)]
    return sorted(found)


def _files(module: str) -> list[tuple[Path, str]]:
    """The files of a module with the package that their relative imports start from."""
    path = _place(module)
    if path is None:
        return []
    if path.name != "__init__.py":
        return [(path, module.rpartition(".")[0])]
    if "." not in module:
        return [(path, module)]  # a whole distribution is too much: what is imported from it counts
    return [(file, _package(file, path.parent, module)) for file in sorted(path.parent.rglob("*.py"))]


def _place(module: str) -> Path | None:
    """Where a module's source is. Python's own finder would import the packages around it."""
    top, *parts = module.split(".")
    loaded = getattr(sys.modules.get(top), "__file__", None)
    if loaded is None:
        return None
    path = Path(loaded)
    for part in parts:
        if path.name != "__init__.py":
            return None
        candidates = (path.parent / part / "__init__.py", path.parent / f"{part}.py")
        found = next((candidate for candidate in candidates if candidate.is_file()), None)
        if found is None:
            return None
        path = found
    return path if path.suffix == ".py" else None


def _package(file: Path, root: Path, module: str) -> str:
    return ".".join((module, *file.parent.relative_to(root).parts))


def _imports(path: Path, package: str) -> Iterator[str]:
    """Names that a file imports; for `from a import b` both a and a.b, of which one may be no module."""
    for node in _import_nodes(path, path.stat().st_mtime_ns):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
            continue
        relative = "." * node.level + (node.module or "")
        try:
            base = resolve_name(relative, package) if node.level else relative
        except ImportError:
            continue
        yield base
        yield from (f"{base}.{alias.name}" for alias in node.names)


@lru_cache(maxsize=1024)
def _import_nodes(path: Path, changed: int) -> tuple[ast.Import | ast.ImportFrom, ...]:
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:
        return ()
    return tuple(node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))


def _same_top(name: str, module: str) -> bool:
    return name.partition(".")[0] == module.partition(".")[0]
