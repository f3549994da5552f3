"""Cards: the frozen facts of a method or a task. Nothing here imports torch; builders do."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from longatlas.errors import LongAtlasError, UnsupportedError, unknown_name
from longatlas.rules import KINDS, Rule, WrongValueError
from longatlas.slots import SLOTS
from longatlas.trainings import Teacher, check_training

OptionValue = bool | int | float | str
Builder = Callable[..., Any]

PEER = "peer:"  # a peer called "fla" is the impl "peer:fla"
DEPARTURES = ("segments",)

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_POWER_OF_T = re.compile(r"(?<![A-Za-z])T(?![A-Za-z])(?:\^([0-9.]+))?")


@dataclass(frozen=True)
class Option:
    """One setting of a method; the dashboard draws its control and the command line checks its value.

    The type is the default's: bool, int, float or str. `min` and `max` are inclusive; `choices` lists the
    allowed strings. `unit` is a word for the reader ("tokens").
    """

    name: str
    default: OptionValue
    help: str
    unit: str = ""
    min: float | None = None
    max: float | None = None
    choices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_name("option", self.name)
        _check_texts("option", self, ("help", "unit"))
        if type(self.default) not in KINDS:
            raise LongAtlasError(
                f"option '{self.name}' has default={self.default!r}; it must be a bool, int, float or str"
            )
        self.check(self.default)

    @property
    def rule(self) -> Rule:
        """What is allowed."""
        return Rule(type(self.default), self.min, self.max, self.choices)

    def parse(self, text: str) -> OptionValue:
        """Read a value from the command line's text. Raises LongAtlasError when it does not fit."""
        return self.check(self._named(self.rule.read, text))

    def check(self, value: Any) -> OptionValue:
        """Return `value` when it has the option's type and lies in its bounds, else raise LongAtlasError."""
        return self._named(self.rule.check, value)

    def _named(self, ask: Callable[[Any], OptionValue], value: Any) -> OptionValue:
        try:
            return ask(value)
        except WrongValueError as error:
            raise LongAtlasError(f"option '{self.name}' {error}") from None


@dataclass(frozen=True)
class Cost:
    """Claimed growth, as sums of products and quotients of symbols.

    T tokens, W window, N segment length, M memory length, C chunk or compression.

    time        of a prefill of T tokens ("T^2", "T*W", "T^2/C", "T*log(T)")
    state       what is carried after T tokens ("T", "W", "T/C", "1", "log(T)")
    train_time  of forward and backward, where it grows otherwise than a prefill; "" = as `time`
    """

    time: str
    state: str
    train_time: str = ""

    def __post_init__(self) -> None:
        for key in ("time", "state", "train_time"):
            if not isinstance(getattr(self, key), str):
                raise LongAtlasError(f"a cost has {key}={getattr(self, key)!r}; it must be text, such as 'T^2'")

    @property
    def time_exponent(self) -> float:
        """The claimed exponent of T in the time of a prefill; a factor log(T) counts as zero."""
        return _exponent(self.time)

    @property
    def train_exponent(self) -> float:
        """The claimed exponent of T in the time of training."""
        return _exponent(self.train_time or self.time)

    @property
    def state_growth(self) -> str:
        """The claimed growth of the state with T: `constant`, `log` or `linear`."""
        if _exponent(self.state) > 0:
            return "linear"
        return "log" if "log(T)" in self.state else "constant"


def _exponent(growth: str) -> float:
    """The greatest power of T among the terms of a sum; what stands after a `/` divides."""
    terms = growth.replace("log(T)", "1").split("+")
    return max(sum(_powers(part) * (-1 if place else 1) for place, part in enumerate(t.split("/"))) for t in terms)


def _powers(product: str) -> float:
    return sum(float(power or 1) for power in _POWER_OF_T.findall(product))


@dataclass(frozen=True)
class Peer:
    """Another project's implementation of a method's operation, measured beside the method's own impls.

    build    builder of the slot that computes (`mixer`, else `attention`), called like the method's own; what it builds
             has the same weights and the same state. The other project's modules are imported inside it
    install  the package that it needs, as pip names it; "" = it comes with torch
    """

    build: Builder
    install: str = ""

    def __post_init__(self) -> None:
        if not callable(self.build):
            raise LongAtlasError(f"a peer has build={self.build!r}, which cannot be called; give a builder")
        if not isinstance(self.install, str):
            raise LongAtlasError(f"a peer has install={self.install!r}; it must be the name of a package, or empty")

    @property
    def builder(self) -> Builder:
        """`build`, which raises UnsupportedError with what to install where an import in it fails."""

        @wraps(self.build)
        def build(*arguments: Any, **options: Any) -> Any:
            try:
                return self.build(*arguments, **options)
            except ImportError as error:
                remedy = f"pip install {self.install}" if self.install else "install a newer torch"
                raise UnsupportedError(f"this peer cannot be imported here ({error}); {remedy}") from None

        return build


@dataclass(frozen=True)
class Method:
    """A method of the taxonomy: its facts, and `fills`, the builder for each slot it changes.

    name       unique, snake_case: folder, command-line argument, test id and result column alike
    title      as the paper spells it
    family     path of a leaf in taxonomy.yaml, or `preliminaries`
    paper      arXiv id, or the address of what stands for the paper
    summary    one sentence
    fills      slot -> builder; a builder is called as `builder(config, **options)` (see longatlas.slots)
    options    settings of the method, given to those of its builders that name them as parameters
    cost       claimed growth of time and state
    impls      ways to compute it; builders that take `impl` are told which one to use
    peers      name -> Peer: implementations of other projects. The impl "peer:name" runs one where it is asked for, and
               it is compared with the reference before it is timed; `auto` never means one
    training   how it comes into a model. "train": it must be trained with the model; "retrofit": it is put into a model
               trained without it; "adapt": it is put into such a model, and a short tuning follows
    tunes      what the tuning of an "adapt" method changes: "all" weights, or "new": those that the host lacks
    calibrate  `calibrate(decoder, batches, **options) -> options`: fits a "retrofit" or "adapt" method to a trained
               host before it is put in; longatlas.tasks.stages tells more
    teacher    a longatlas.Teacher: the objective is given it, trained and frozen, as its parameter `teacher`
    sampler    `sampler(text, length, batch, seed, steps, **options)` yields batches of training text in place of the
               task's own; longatlas.tasks.sampling tells more
    requires   importable modules it needs beyond torch ("triton")
    devices    device types it runs on
    deviations how it departs from the paper, in words
    departs    rules of the conformance kit that it departs from by its nature: "segments" = cutting a sequence into
               segments changes the result. The check then reports the departure instead of failing
    source     what it was checked against
    flops      `flops(call, **options)`: floating-point operations of one call of the operation of one layer
               (longatlas.flops.Call); it is given those options that it names. A method that leaves the operation
               as it is gives vanilla's, longatlas.flops.causal_softmax. None = not known, then no share of the
               machine's peak is told
    state_size `state_size(call, **options)`: floating-point numbers that one layer keeps of one sequence after a
               prefill of `call.end` tokens; longatlas.flops.growing_cache is vanilla's. None = not known
    equations  its mathematics as LaTeX, shown on its page
    exact      it computes what vanilla computes from the same weights, by another way; the conformance check holds it
               to that
    ranks      it computes with several ranks where there is a process group (see longatlas.parallel); the conformance
               check holds n ranks to the results and gradients of one

    Raises LongAtlasError when a field breaks its rule.
    """

    name: str
    title: str
    family: str
    summary: str
    fills: Mapping[str, Builder]
    paper: str = ""
    options: tuple[Option, ...] = ()
    cost: Cost = field(default_factory=lambda: Cost(time="T^2", state="T"))
    impls: tuple[str, ...] = ("torch",)
    peers: Mapping[str, Peer] = field(default_factory=dict)
    training: str = "train"
    tunes: str = "all"
    calibrate: Callable[..., Mapping[str, Any]] | None = None
    teacher: Teacher | None = None
    sampler: Callable[..., Any] | None = None
    requires: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("cpu", "cuda")
    deviations: str = ""
    departs: tuple[str, ...] = ()
    source: str = ""
    equations: tuple[str, ...] = ()
    exact: bool = False
    ranks: bool = False
    flops: Callable[..., float] | None = None
    state_size: Callable[..., int] | None = None

    def __post_init__(self) -> None:
        _check_name("method", self.name)
        _check_texts("method", self, ("title", "family", "summary", "paper", "training", "deviations", "source"))
        self._check_types()
        for slot, builder in self.fills.items():
            if slot not in SLOTS:
                raise unknown_name(f"slot in method '{self.name}':", slot, SLOTS)
            if not callable(builder):
                raise LongAtlasError(
                    f"method '{self.name}' fills slot '{slot}' with {builder!r}, which cannot be called; "
                    "give a builder: a function (config, **options) that returns what the slot takes"
                )
        if not self.summary.strip():
            raise LongAtlasError(f"method '{self.name}' has an empty summary; write one sentence")
        check_training(self)
        if not self.impls:
            raise LongAtlasError(f"method '{self.name}' names no impl; give at least one, such as 'torch'")
        names = [option.name for option in self.options]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise LongAtlasError(f"method '{self.name}' has the option '{twice[0]}' twice; names are unique")

        self._check_formulas()
        self._check_peers()

    @property
    def computing_slot(self) -> str:
        """The slot whose builder a peer stands for: `mixer`, else `attention`."""
        return "mixer" if "mixer" in self.fills else "attention"

    def builder(self, slot: str, impl: str) -> Builder | None:
        """The builder of a slot with an impl, which may be a peer's; None where the method does not fill the slot."""
        peer = self.peers.get(impl.removeprefix(PEER)) if impl.startswith(PEER) else None
        return peer.builder if peer and slot == self.computing_slot else self.fills.get(slot)

    def _check_peers(self) -> None:
        if not isinstance(self.peers, Mapping) or not all(isinstance(peer, Peer) for peer in self.peers.values()):
            raise LongAtlasError(
                f"method '{self.name}' has peers={self.peers!r}; it must map names to longatlas.Peer(build, install)"
            )
        for name in self.peers:
            _check_name("peer", name)
        if self.peers and self.computing_slot not in self.fills:
            raise LongAtlasError(
                f"method '{self.name}' has peers, and fills neither mixer nor attention; a peer stands for one of these"
            )

    def _check_formulas(self) -> None:
        for key in ("flops", "state_size"):
            value = getattr(self, key)
            if value is not None and not callable(value):
                raise LongAtlasError(
                    f"method '{self.name}' has {key}={value!r}, which cannot be called; "
                    "give a function (call, **options) that returns a number, or leave it out"
                )

    def _check_types(self) -> None:
        parts = {"options": Option} | dict.fromkeys(("impls", "requires", "devices", "equations", "departs"), str)
        for key, kind in parts.items():
            value = getattr(self, key)
            if not isinstance(value, tuple | list) or not all(isinstance(part, kind) for part in value):
                raise LongAtlasError(
                    f"method '{self.name}' has {key}={value!r}; it must be a tuple of {kind.__name__}, "
                    "and a tuple of one needs a comma: (a,)"
                )
        for name in self.departs:
            if name not in DEPARTURES:
                raise unknown_name(f"departure in method '{self.name}':", name, DEPARTURES)
        if not isinstance(self.cost, Cost):
            raise LongAtlasError(
                f"method '{self.name}' has cost={self.cost!r}; it must be a longatlas.Cost(time, state)"
            )

    def resolve_options(self, given: Mapping[str, Any]) -> dict[str, OptionValue]:
        """All options with their values: those `given`, checked, and the defaults of the others.

        Text values are parsed. Raises UnknownNameError for an option that the method does not have,
        LongAtlasError for a value out of bounds.
        """
        known = {option.name: option for option in self.options}
        for name in given:
            if name not in known:
                raise unknown_name(f"option of method '{self.name}':", name, known)
        values: dict[str, OptionValue] = {}
        for name, option in known.items():
            value = given.get(name, option.default)
            try:
                is_text = isinstance(value, str) and not isinstance(option.default, str)
                values[name] = option.parse(value) if is_text else option.check(value)
            except LongAtlasError as error:
                raise LongAtlasError(f"method '{self.name}': {error}") from None
        return values


@dataclass(frozen=True)
class Task:
    """A quality task: data made from a seed (or read from a corpus) and how answers are scored.

    name     unique, snake_case
    title    as the literature spells it
    summary  what it shows, one sentence
    paper    arXiv id of its source
    run      `run(session) -> list of metrics`, called in the worker; see longatlas.tasks
    presets  preset name -> settings
    example  one worked example, in words
    corpus   it reads the text that `--corpus` names (session.text()): the text is part of its cells then
    """

    name: str
    title: str
    summary: str
    run: Callable[..., Any]
    presets: Mapping[str, Mapping[str, Any]]
    paper: str = ""
    example: str = ""
    corpus: bool = False

    def __post_init__(self) -> None:
        _check_name("task", self.name)
        _check_texts("task", self, ("title", "summary", "paper", "example"))
        if not isinstance(self.corpus, bool):
            raise LongAtlasError(f"task '{self.name}' has corpus={self.corpus!r}; it must be True or False")


def _check_texts(kind: str, card: Any, keys: Sequence[str]) -> None:
    for key in keys:
        value = getattr(card, key)
        if not isinstance(value, str):
            raise LongAtlasError(f"{kind} '{card.name}' has {key}={value!r}; it must be text, which may be empty: \"\"")


def _check_name(kind: str, name: Any) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise LongAtlasError(
            f"{kind} name {name!r} is not snake_case; use small letters, digits and '_', a letter first"
        )
