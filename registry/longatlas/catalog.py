"""The catalog: every method and task that is installed, with its computed status."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from longatlas.cards import Method, Task
from longatlas.errors import LongAtlasError, UnknownNameError, unknown_name
from longatlas.kernels.limits import case_obstacle
from longatlas.plugins import Fault, Plugin, Source, installed_sources, load_plugins
from longatlas.taxonomy import Taxonomy, load_taxonomy


class Catalog:
    """Look-up of methods, tasks and plugins by name."""

    def __init__(self, plugins: Iterable[Plugin], taxonomy: Taxonomy) -> None:
        self.plugins = tuple(plugins)
        self.taxonomy = taxonomy
        self.methods = {method.name: method for plugin in self.plugins for method in plugin.methods}
        self.tasks = {task.name: task for plugin in self.plugins for task in plugin.tasks}

    def method(self, name: str) -> Method:
        """The method called `name`. Raises UnknownNameError with a suggestion, or with what is wrong with its card."""
        if name not in self.methods:
            for fault in self.faults:
                if fault.card == name:
                    raise UnknownNameError(f"method {fault}")
            remedy = "`longatlas list` shows all" + (", `longatlas plugins` what is broken" if self.faults else "")
            raise unknown_name("method", name, self.methods, remedy)
        return self.methods[name]

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What is wrong with the plugins and with their cards; empty when all is well."""
        return tuple(fault for plugin in self.plugins for fault in plugin.faults)

    def task(self, name: str) -> Task:
        """The task called `name`. Raises UnknownNameError with a suggestion."""
        if name not in self.tasks:
            raise unknown_name("task", name, self.tasks)
        return self.tasks[name]

    def plugin_of(self, method: str) -> Plugin:
        """The plugin that brought a method."""
        self.method(method)
        return next(p for p in self.plugins if any(m.name == method for m in p.methods))

    def select(self, family: str = "", status: str = "") -> list[Method]:
        """Methods under a taxonomy path and with a status, in the taxonomy's order.

        Raises UnknownNameError for a path that is not in the taxonomy, LongAtlasError for an unknown status.
        """
        if family:
            self.taxonomy.node(family)
        if status and not any(status.startswith(known) for known in STATUSES):
            raise unknown_name("status", status, STATUSES)
        order = {node.path: place for place, node in enumerate(self.taxonomy.walk())}
        chosen = [
            method
            for method in self.methods.values()
            if f"{method.family}/".startswith(f"{family}/" if family else "")
            and method_status(method).startswith(status)
        ]
        return sorted(chosen, key=lambda m: (order[m.family], m.name))


STATUSES = ("ready", "needs", "described only", "broken")


def method_status(method: Method) -> str:
    """`ready`, `needs X`, `described only` or `broken: ...`, computed from this machine; loads no torch."""
    problems = obstacles(method)
    return problems[0][0] if problems else "ready"


def obstacles(method: Method) -> list[tuple[str, str]]:
    """Why a method cannot run here: (status, remedy) pairs; empty when it can."""
    if not method.fills:
        return [("described only", "it has a card but no implementation yet")]
    found = []
    for module in ("torch", *method.requires):
        try:
            missing = importlib.util.find_spec(module) is None
        except (ImportError, ValueError) as error:
            found.append((f"broken: {error}", f"reinstall {module}"))
            continue
        if missing:
            found.append((f"needs {module}", f"pip install {module}"))
    if "cpu" not in method.devices and not has_cuda():
        found.append(("needs cuda", "it runs on an NVIDIA GPU only, and none was found"))
    return found


def auto_impl(method: Method) -> tuple[str, str]:
    """What `impl="auto"` means on this machine, with the reason: the card's first impl that can run here."""
    device = "cuda" if has_cuda() else "cpu"
    passed: list[str] = []
    for impl in method.impls:
        hindrance = impl_obstacle(impl, device)
        if not hindrance:
            return impl, "; ".join(["the first of its impls that runs here", *passed])
        passed.append(hindrance)
    return "reference", "; ".join(["none of its fast impls runs here", *passed])


def impl_obstacle(impl: str, device: str, dtype: str = "", head_size: int | None = None) -> str:
    """Why an impl cannot run on a device of this machine, in a dtype and with heads of a size; "" when it can."""
    if impl != "triton":
        return ""
    if device != "cuda":
        return "triton needs an NVIDIA GPU"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    return case_obstacle(dtype, head_size)


def has_cuda() -> bool:
    """Whether an NVIDIA driver is on this machine, found without loading torch."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


@lru_cache(maxsize=1)
def load_catalog() -> Catalog:
    """The catalog of everything installed; read once per process.

    Raises LongAtlasError when the taxonomy is broken or no built-in method could be found.
    """
    return build_catalog(installed_sources())


def build_catalog(sources: Iterable[Source]) -> Catalog:
    """A catalog of the given sources, for tests and tools."""
    taxonomy = load_taxonomy()
    catalog = Catalog(load_plugins(sources, taxonomy), taxonomy)
    if not catalog.plugins:
        raise LongAtlasError(
            "no plugin of the entry-point group 'longatlas' is installed; run `pip install -e .` in the checkout"
        )
    return catalog
