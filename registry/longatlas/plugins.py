"""Loads plugins one by one, so that a broken one costs itself and nothing else."""

from __future__ import annotations

import re
import sys
import tomllib
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import pluggy

from longatlas import hookspecs
from longatlas.cards import Method, Task
from longatlas.errors import LongAtlasError, unknown_name
from longatlas.taxonomy import Taxonomy

GROUP = "longatlas"
CHECKOUT = Path(__file__).parents[2] / "pyproject.toml"
HOOKS = ("register_methods", "register_tasks", "register_commands")


@dataclass(frozen=True)
class Plugin:
    """One entry point of the group `longatlas`, loaded or broken.

    error  "" when it loaded; else what went wrong, on one line
    """

    name: str
    version: str
    distribution: str
    methods: tuple[Method, ...] = ()
    tasks: tuple[Task, ...] = ()
    error: str = ""
    manager: pluggy.PluginManager | None = None


@dataclass(frozen=True)
class Source:
    """Where a plugin comes from: its name, and how to import it."""

    name: str
    load: Callable[[], Any]
    version: str = ""
    distribution: str = ""


def installed_sources() -> list[Source]:
    """The entry points of the group, built-ins first, then by name.

    In a checkout that is on the path and not installed, the built-ins are read from its pyproject.toml.
    """
    sources = []
    for point in metadata.entry_points(group=GROUP):
        dist = point.dist
        name, version = (dist.name, dist.version) if dist else ("", "")
        sources.append(Source(point.name, point.load, version, name))
    if not any(source.distribution == "longatlas" for source in sources) and CHECKOUT.is_file():
        sources += _sources_of(CHECKOUT)
    return sorted(sources, key=lambda s: (s.distribution != "longatlas", s.distribution, s.name))


def _sources_of(pyproject: Path) -> list[Source]:
    project = tomllib.loads(pyproject.read_text(encoding="utf-8")).get("project", {})
    if project.get("name") != "longatlas":
        return []
    modules = project["entry-points"][GROUP]
    return [
        Source(name, partial(import_module, module), project["version"], project["name"])
        for name, module in modules.items()
    ]


def load_plugins(sources: Iterable[Source], taxonomy: Taxonomy) -> list[Plugin]:
    """Load each source in turn. A plugin is taken whole or not at all; a failure is kept as its `error`.

    What it prints goes to stderr, so that it is no part of what a command answers.
    """
    plugins: list[Plugin] = []
    owners: dict[str, str] = {}
    for source in sources:
        try:
            with redirect_stdout(sys.stderr):
                plugin = _load_one(source, taxonomy, owners)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a panic in a Rust extension and pytest.skip() are no Exception
            plugin = Plugin(source.name, source.version, source.distribution, error=_describe(error))
        cards: tuple[Method | Task, ...] = (*plugin.methods, *plugin.tasks)
        for card in cards:
            owners[_title(card)] = source.name
        plugins.append(plugin)
    return plugins


def _load_one(source: Source, taxonomy: Taxonomy, owners: dict[str, str]) -> Plugin:
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    module = source.load()
    manager.register(module, source.name)
    _check_hooks(manager, module)
    methods: list[Method] = []
    tasks: list[Task] = []
    manager.hook.register_methods(register=methods.append)
    manager.hook.register_tasks(register=tasks.append)
    _check_cards(Method, methods, owners)
    _check_cards(Task, tasks, owners)
    for method in methods:
        _check_family(method, taxonomy)
    return Plugin(
        source.name,
        source.version,
        source.distribution,
        tuple(methods),
        tuple(tasks),
        manager=manager,
    )


def _check_hooks(manager: pluggy.PluginManager, module: Any) -> None:
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        found = re.search(r"unknown hook '(\w+)'", str(error))
        if found:
            raise unknown_name("hook", found[1], HOOKS) from None
        raise
    if not manager.get_hookcallers(module):
        raise LongAtlasError(
            f"implements none of the hooks {', '.join(HOOKS)}; mark a function of that name with @longatlas.hookimpl"
        )


def _check_cards(kind: type[Method] | type[Task], cards: Sequence[Any], owners: dict[str, str]) -> None:
    seen: set[str] = set()
    for card in cards:
        if not isinstance(card, kind):
            raise LongAtlasError(f"registered {card!r}; register takes a longatlas.{kind.__name__}")
        title = _title(card)
        owner = owners.get(title) or ("itself" if title in seen else "")
        if owner:
            raise LongAtlasError(f"the name of {title} is taken by plugin '{owner}'; names are unique: rename it")
        seen.add(title)


def _title(card: Method | Task) -> str:
    """Kind and name, such as "method 'alibi'"."""
    return f"{type(card).__name__.lower()} '{card.name}'"


def _check_family(method: Method, taxonomy: Taxonomy) -> None:
    try:
        taxonomy.leaf(method.family)
    except LongAtlasError as error:
        raise LongAtlasError(f"method '{method.name}': {error}") from None


def _describe(error: BaseException) -> str:
    if isinstance(error, LongAtlasError):
        return str(error)
    text = " ".join(traceback.format_exception_only(error)[-1].split())
    frames = [(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__)]
    places = [place for place in frames if "importlib" not in place[0]]
    if isinstance(error, SyntaxError) and error.filename:
        places.append((error.filename, error.lineno))
    return text + (f" ({places[-1][0].rsplit('/', 1)[-1]}, line {places[-1][1]})" if places else "")
