"""The code that computes a cell: where its method's builders, its measure and its task begin, and what they reach."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from longatlas.cards import PEER, Method, Task
from longatlas.catalog import load_catalog
from longatlas.combination import Combination, Part, parse_spec
from longatlas.errors import LongAtlasError
from longatlas.identity.closure import Closures
from longatlas.lazy import Later
from longatlas.measures import MEASURES

GATE = "longatlas.measure.gate"  # before every measure
# Where the code of what is found apart from measures begins.
ROOTS: Mapping[str, str] = {
    "training": "longatlas.tasks.training",
    "peaks": "longatlas.measure.roofline",
    "influence": "longatlas.measure.influence",
    "footprint": "longatlas.measure.footprint",
    "verify": "longatlas.testing.runner",
}
# What `verify` holds a method to, and no number depends on.
HELD_BY_CHECKS = ("exact", "ranks", "deviations", "departs", "cost", "impls")


class Code(Closures):
    """The code of cells, as it lies on disk when it is first asked for; make another one to look again."""

    def of(
        self, combination: Combination, measure: str, task: Task | None = None, preset: str = "", impl: str = ""
    ) -> str:
        """Digest of what computes a cell, or of what `influence`, `footprint` or `verify` finds of a method.

        measure  of longatlas.measures, or a key of ROOTS
        task     of a quality cell, with its preset's name
        impl     of the cell: a peer's own code counts where it is asked for

        Raises LongAtlasError for a file that was there when its plugin was loaded and cannot be read any more.
        """
        methods = _methods(combination, with_host=_trains(measure))
        called = [function for method in methods for function in _called(method, measure, impl)]
        facts: dict[str, Any] = {"methods": [_facts_of(method, measure) for method in methods]}
        if task is not None:
            called.append(task.run)
            facts |= {"task": task.name, "settings": task.presets.get(preset)}
        try:
            return self.digest((*_roots(measure), *modules_of(called)), facts)
        except OSError as error:
            raise _lost(error, methods, task) from None

    def of_training(self, host: Combination, *called: Callable[..., Any]) -> str:
        """Digest of what a trained host depends on: the training, the host's methods, and what is called for batches.

        Raises OSError for a source that cannot be read.
        """
        builders = [builder for method in _methods(host) for builder in _called(method, "training")]
        return self.digest((ROOTS["training"], *modules_of([*builders, *called])))

    def of_measure(self, name: str) -> str:
        """Digest of what is measured of no method, such as the machine's peaks."""
        return self.digest(_roots(name))


def current_sources(cells: Iterable[tuple[str, str, str, str, str]]) -> frozenset[str]:
    """Today's digests of cells (method, impl, measure, phase or task, preset): a row with any other is stale.

    Methods and tasks that are not installed any more, or cannot be read, have none.
    """
    code, catalog, found = Code(), load_catalog(), set[str]()
    for spec, impl, measure, phase, preset in set(cells):
        try:
            task = None if MEASURES[measure].shaped else catalog.task(phase)
            found.add(code.of(parse_spec(spec), measure, task, preset, impl))
        except LongAtlasError:
            continue
    return frozenset(found)


def modules_of(called: Iterable[Any]) -> list[str]:
    """The modules of functions, of what partial functions hold, and of functions that others close over."""
    found: list[str] = []
    for one in called:
        if isinstance(one, Later):
            found.append(one.module)
        elif isinstance(one, functools.partial):
            found += modules_of((one.func, *one.args, *one.keywords.values()))
        elif inspect.isroutine(one) or inspect.isclass(one):
            found += [one.__module__ or "", *modules_of(_within(one))]
        elif callable(one):
            found.append(type(one).__module__)
    return [module for module in found if module]


def _within(function: Any) -> list[Any]:
    """What a function wraps or closes over."""
    wrapped = getattr(function, "__wrapped__", None)
    cells = getattr(function, "__closure__", None) or ()
    held = [value for cell in cells if (value := _content(cell)) is not function]
    return held if wrapped is None else [wrapped, *held]


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is not filled yet
        return None


def _methods(combination: Combination, *, with_host: bool = False) -> list[Method]:
    """The methods of a combination, and of what is trained before its other parts are put in, teachers among it."""
    parts = (*combination.parts, *((*combination.host.parts, *_teachers(combination)) if with_host else ()))
    return list({part.method.name: part.method for part in parts}.values())


def _teachers(combination: Combination) -> tuple[Part, ...]:
    """The parts of its teacher and of that one's host; none where its spec is wrong, which its training tells."""
    try:
        teacher = parse_spec(combination.teacher.spec) if combination.teacher else None
    except LongAtlasError:
        return ()
    return (*teacher.parts, *teacher.host.parts) if teacher else ()


def _trains(measure: str) -> bool:
    """Whether models are trained for a measure, or for its hosts."""
    return measure == "training" or (measure in MEASURES and not MEASURES[measure].shaped)


def _roots(measure: str) -> tuple[str, ...]:
    """Where the code of a measure begins, or of another finding. What it does not import computes none of it."""
    if measure in MEASURES:
        return GATE, MEASURES[measure].function.partition(":")[0]
    return (ROOTS[measure],)


def _formulas(measure: str) -> tuple[str, ...]:
    """The formulas on a card that become rows of a measure, or that are checked."""
    return MEASURES[measure].formulas if measure in MEASURES else ("flops", "state_size") if measure == "verify" else ()


def _called(method: Method, measure: str, impl: str = "") -> list[Callable[..., Any]]:
    """A method's functions that a measure calls; formulas of operations become rows of a timing."""
    formulas = [getattr(method, name) for name in _formulas(measure)]
    peer = method.peers.get(impl.removeprefix(PEER)) if impl.startswith(PEER) else None
    trained = [method.sampler, method.calibrate] if _trains(measure) else []
    others = [*formulas, peer.build if peer else None, *trained]
    return [*method.fills.values(), *(function for function in others if function is not None)]


def _facts_of(method: Method, measure: str) -> dict[str, Any]:
    """What numbers depend on in a card beside its functions; checks look at more of it."""
    told: dict[str, Any] = {
        "name": method.name,
        "training": [method.training, method.tunes, repr(method.teacher)],
        "fills": {slot: getattr(builder, "__qualname__", "") for slot, builder in method.fills.items()},
        "options": [[option.name, option.unit, option.min] for option in method.options],
    }
    told |= {"ranks": True} if method.ranks else {}
    held = HELD_BY_CHECKS if measure == "verify" else ()
    return told | {name: repr(getattr(method, name, "")) for name in held}


def _lost(error: OSError, methods: list[Method], task: Task | None) -> LongAtlasError:
    names = [f"method '{method.name}'" for method in methods] + ([f"task '{task.name}'"] if task else [])
    return LongAtlasError(
        f"the source of {' and '.join(names)} cannot be read any more: {error.filename}: {error.strerror}; install its "
        "plugin again and start longatlas anew"
    )
