"""The import closure of modules: what they import, directly or not, and a digest of all its sources."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from longatlas.identity.module import Import, Source, read_source
from longatlas.identity.places import (
    counts_apart,
    is_ours,
    is_package,
    lost_place_of,
    modules_below,
    place_of,
    version_of,
)

# Where a closure ends: what describes methods, measures and rows, finds them and tells their identity. What it decides
# is part of the cell itself: its spec, options and impl, and the functions that are followed from there.
BORDER = tuple(f"longatlas.{name}" for name in ("cards", "catalog", "columns", "identity", "lazy", "measures", "rules"))
SCHEME = "c1-"  # digests of another way of counting never equal those of this one
DEEPEST = 20  # packages that may pass a name on to each other


class Closures:
    """Closures over the sources as they lie on disk when they are first asked for; make another one to look again.

    Modules of longatlas and of plugins' distributions count by their source, others by the version of theirs. Packages
    around a module do not count: the list of a family's methods must not make them depend on each other.
    """

    def __init__(self) -> None:
        self._sources: dict[str, Source | None] = {}
        self._imported: dict[str, tuple[str, ...]] = {}
        self._closures: dict[tuple[str, ...], tuple[str, ...]] = {}

    def digest(self, roots: Iterable[str], facts: Mapping[str, Any] | None = None) -> str:
        """Digest of the closure of modules, and of facts beside it: the mark of SCHEME and 24 hexadecimal digits.

        Raises OSError for a source that cannot be read.
        """
        counted = [(name, self._counted(name)) for name in self.closure(roots)]
        text = json.dumps([counted, facts or {}], sort_keys=True, default=repr)
        return SCHEME + hashlib.sha256(text.encode()).hexdigest()[:24]

    def closure(self, roots: Iterable[str]) -> tuple[str, ...]:
        """The modules that some reach, they themselves included, and other distributions' by their top-level name."""
        start = tuple(sorted(set(roots)))
        if start not in self._closures:
            reached, waiting = set[str](), list(start)
            while waiting:
                name = waiting.pop()
                if name not in reached:
                    reached.add(name)
                    waiting += self.imported(name)
            self._closures[start] = tuple(sorted(reached))
        return self._closures[start]

    def imported(self, name: str) -> tuple[str, ...]:
        """The modules that one needs itself."""
        if name not in self._imported:
            source = self._source(name)
            taken = [module for one in (source.imports if source else ()) for module in self._made_in(one)]
            for prefix in source.computed if source else ():
                taken += modules_below(prefix or name.partition(".")[0])
            self._imported[name] = tuple(filter(_counts, dict.fromkeys(taken)))
        return self._imported[name]

    def _counted(self, name: str) -> str:
        source = self._source(name)
        return source.digest if source is not None else version_of(name)

    def _source(self, name: str) -> Source | None:
        if name not in self._sources:
            path = (place_of(name) or lost_place_of(name)) if is_ours(name) else None
            self._sources[name] = read_source(path, name) if path is not None else None
        return self._sources[name]

    def _made_in(self, taken: Import, depth: int = 0) -> Iterator[str]:
        """The modules that make a name: where a package only passes it on, its other names do not count."""
        module, name = taken.module, taken.name
        if not is_ours(module):
            yield module.partition(".")[0]
            return
        source = self._source(module)
        if name and place_of(f"{module}.{name}") is not None:
            yield f"{module}.{name}"
            if source is None or source.binds.get(name, taken) is not None:
                return
        if source is None:
            return
        passed = {**source.lazy, **{key: value for key, value in source.binds.items() if value is not None}}
        if name in passed and is_package(module) and depth < DEEPEST:
            yield from self._made_in(passed[name], depth + 1)
            return
        yield module
        for one in passed.values() if name == "*" and depth < DEEPEST else ():
            yield from self._made_in(one, depth + 1)


def _counts(name: str) -> bool:
    is_beyond = any(name == border or name.startswith(f"{border}.") for border in BORDER)
    return counts_apart(name) and not is_beyond
