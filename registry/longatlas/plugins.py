"""Loads plugins one by one and their cards one by one, so that a broken one costs itself and nothing else."""

from __future__ import annotations

import re
import sys
import tomllib
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
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
class Fault:
    """What is wrong with a plugin, or with one card of it.

    card   the name of the card; "" when the whole plugin is broken
    error  what went wrong, on one line
    """

    plugin: str
    card: str
    error: str

    def __str__(self) -> str:
        of = f"'{self.card}' of plugin '{self.plugin}'" if self.card else f"plugin '{self.plugin}'"
        return f"{of} is broken: {self.error}"


@dataclass(frozen=True)
class Plugin:
    """One entry point of the group `longatlas`, loaded or broken.

    error  "" when it loaded; else what went wrong, on one line. What it had registered before that works
    broken its cards that failed; the others work
    """

    name: str
    version: str
    distribution: str
    methods: tuple[Method, ...] = ()
    tasks: tuple[Task, ...] = ()
    error: str = ""
    broken: tuple[Fault, ...] = ()
    manager: pluggy.PluginManager | None = None

    @property
    def faults(self) -> tuple[Fault, ...]:
        """All that is wrong with it: with the plugin itself first, then with its cards."""
        return (*((Fault(self.name, "", self.error),) if self.error else ()), *self.broken)


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
    """Load each source in turn, and each of its cards; a failure is kept as an `error`, of the plugin or of the card.

    What it prints goes to stderr, so that it is no part of what a command answers.
    """
    owners: dict[str, str] = {}
    with redirect_stdout(sys.stderr):
        return [_load_one(source, taxonomy, owners) for source in sources]


def _load_one(source: Source, taxonomy: Taxonomy, owners: dict[str, str]) -> Plugin:
    methods, tasks = Stage(Method, source.name, taxonomy, owners), Stage(Task, source.name, taxonomy, owners)
    manager, errors = pluggy.PluginManager(GROUP), list[str]()
    with _kept(errors.append):
        manager.add_hookspecs(hookspecs)
        module = source.load()
        manager.register(module, source.name)
        _check_hooks(manager, module)
        manager.hook.register_methods(register=methods)
        manager.hook.register_tasks(register=tasks)
    return Plugin(
        source.name,
        source.version,
        source.distribution,
        tuple(methods.cards),
        tuple(tasks.cards),
        "".join(errors),
        (*methods.faults, *tasks.faults),
        None if errors else manager,
    )


class Stage:
    """What a hook is given as `register`: takes a card, or keeps what is wrong with it.

    owners  title of a card -> the plugin that it came with, of all plugins loaded so far
    """

    def __init__(self, kind: type[Any], plugin: str, taxonomy: Taxonomy, owners: dict[str, str]) -> None:
        self.kind, self.plugin, self.taxonomy, self.owners = kind, plugin, taxonomy, owners
        self.cards: list[Any] = []
        self.faults: list[Fault] = []

    def __call__(self, card: Any) -> None:
        """Take a card, or the card of the module of that name."""
        with _kept(lambda error: self.faults.append(Fault(self.plugin, _name(card), error))):
            checked = self._checked(self._loaded(card) if isinstance(card, str) else card)
            self.cards.append(checked)
            self.owners[_title(checked)] = self.plugin

    def _loaded(self, module: str) -> Any:
        """The card of a module, which has the module's name."""
        attribute = self.kind.__name__.upper()
        try:
            card = getattr(import_module(module), attribute, None)
        except ModuleNotFoundError as error:
            if not f"{module}.".startswith(f"{error.name}."):
                raise
            raise LongAtlasError(f"registered '{module}', and there is no such module; {self._takes()}") from None
        name = module.rpartition(".")[2]
        if card is None:
            raise LongAtlasError(
                f"module '{module}' has no {attribute}; give it its card, or, where it is no {attribute.lower()}'s, "
                f"a name that starts with '_'"
            )
        if getattr(card, "name", name) != name:
            raise LongAtlasError(f"module '{module}' holds the card of '{card.name}'; rename one of the two")
        return card

    def _checked(self, card: Any) -> Any:
        if not isinstance(card, self.kind):
            raise LongAtlasError(f"registered {card!r}; {self._takes()}")
        owner = self.owners.get(_title(card))
        if owner:
            by = "another card of its plugin" if owner == self.plugin else f"plugin '{owner}'"
            raise LongAtlasError(f"the name of {_title(card)} is taken by {by}; names are unique: rename it")
        if isinstance(card, Method):
            self.taxonomy.leaf(card.family)
        return card

    def _takes(self) -> str:
        kind = self.kind.__name__
        return f"register takes a longatlas.{kind}, or the name of a module that holds one as {kind.upper()}"


def _name(card: Any) -> str:
    name = card.rpartition(".")[2] if isinstance(card, str) else getattr(card, "name", None)
    return name if isinstance(name, str) and name else repr(card)


def _title(card: Method | Task) -> str:
    """Kind and name, such as "method 'alibi'"."""
    return f"{type(card).__name__.lower()} '{card.name}'"


@contextmanager
def _kept(keep: Callable[[str], None]) -> Iterator[None]:
    """Hand what goes wrong inside to `keep`, as one line."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic in a Rust extension and pytest.skip() are no Exception
        keep(_describe(error))


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


def _describe(error: BaseException) -> str:
    if isinstance(error, LongAtlasError):
        return str(error)
    text = " ".join(traceback.format_exception_only(error)[-1].split())
    frames = [(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__)]
    places = [place for place in frames if "importlib" not in place[0]]
    if isinstance(error, SyntaxError) and error.filename:
        places.append((error.filename, error.lineno))
    return text + (f" ({places[-1][0].rsplit('/', 1)[-1]}, line {places[-1][1]})" if places else "")
