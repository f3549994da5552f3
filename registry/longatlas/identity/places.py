"""Where modules lie and whose they are, found without importing them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from longatlas.catalog import load_catalog
from longatlas.identity.machine import LIBRARIES

# Libraries of longatlas itself, whose versions the measuring process tells (longatlas.identity.machine).
TOLD_BY_VERSION = frozenset(("torch", "triton", *LIBRARIES))


def is_ours(name: str) -> bool:
    """Whether a module counts by its source: longatlas's, a plugin's, or one that no distribution has brought."""
    top = name.partition(".")[0]
    return top == "longatlas" or (top not in TOLD_BY_VERSION and not _is_foreign(top))


def counts_apart(name: str) -> bool:
    """Whether a module has to be counted: Python's own and longatlas's libraries are told with who measures."""
    top = name.partition(".")[0]
    return top not in sys.stdlib_module_names and top not in TOLD_BY_VERSION


@lru_cache(maxsize=1024)
def version_of(name: str) -> str:
    """The versions of the distributions that brought a module; "" where none has."""
    brought = _distributions().get(name.partition(".")[0], ())
    return ", ".join(f"{distribution} {metadata.version(distribution)}" for distribution in sorted(set(brought)))


@lru_cache(maxsize=1024)
def _is_foreign(top: str) -> bool:
    """Whether a top-level module is Python's, or of a distribution that brings no plugin."""
    if top in sys.stdlib_module_names:
        return True
    plugins = {_plain(plugin.distribution) for plugin in load_catalog().plugins}
    brought = {_plain(name) for name in _distributions().get(top, ())}
    return bool(brought) and not brought & plugins


@lru_cache(maxsize=1)
def _distributions() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


def _plain(distribution: str) -> str:
    return distribution.lower().replace("_", "-").replace(".", "-")


def place_of(module: str) -> Path | None:
    """The source file of a module; None where it has none. Python's own finder would import the packages around it."""
    package, _, last = module.rpartition(".")
    for folder in _folders(package, module.partition(".")[0]):
        for path in (folder / last / "__init__.py", folder / f"{last}.py"):
            if path.is_file():
                return path
    return None


def lost_place_of(module: str) -> Path | None:
    """Where the source of a loaded module lay that lies there no more."""
    path = getattr(sys.modules.get(module), "__file__", None)
    return Path(path) if path is not None and path.endswith(".py") else None


def is_package(module: str) -> bool:
    """Whether a module is a package with a file of its own."""
    path = place_of(module)
    return path is not None and path.name == "__init__.py"


def modules_below(package: str) -> Iterator[str]:
    """A package and all modules in it, at any depth; none where it is no package."""
    place = place_of(package)
    if place is None or place.name != "__init__.py":
        return
    for path in sorted(place.parent.rglob("*.py")):
        parts = path.relative_to(place.parent).with_suffix("").parts
        yield ".".join((package, *(parts[:-1] if parts[-1] == "__init__" else parts)))


def _folders(package: str, top: str) -> list[Path]:
    """The folders that hold a package's modules; of "" those that hold the top-level module."""
    if not package:
        return [path.parent.parent if path.name == "__init__.py" else path.parent for path in _files_of(top)]
    around, _, last = package.rpartition(".")
    return [folder / last for folder in _folders(around, top)]


def _files_of(top: str) -> list[Path]:
    loaded = getattr(sys.modules.get(top), "__file__", None)
    if loaded is not None:
        return [Path(loaded)]
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is not None:
        return [Path(str(spec.origin))] if spec else []
    return [Path(folder) / "__init__.py" for folder in spec.submodule_search_locations or ()]
