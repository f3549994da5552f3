"""Names of a package that load their module, and torch with it, on first use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any


def lazy_exports(package: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """A module `__getattr__` (PEP 562) that finds each name in the submodule given for it.

    `names` maps an exported name to a module relative to `package`, such as {"infini_attention": ".operation"}.
    """

    def getattr_(name: str) -> Any:
        if name in names:
            return getattr(import_module(names[name], package), name)
        raise AttributeError(f"module '{package}' has no attribute '{name}'")

    return getattr_


@dataclass(frozen=True)
class Later:
    """A function of a module that is imported when it is called, with arguments that come after those of the call."""

    module: str
    name: str
    arguments: tuple[Any, ...] = ()

    def __call__(self, *given: Any) -> Any:
        return getattr(import_module(self.module), self.name)(*given, *self.arguments)
