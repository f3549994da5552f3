"""Method specs: `yarn:factor=4+sliding_window` is one or more methods with options, in disjoint slots."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from longatlas.cards import PEER, Builder, Method, OptionValue
from longatlas.catalog import impl_obstacle, load_catalog
from longatlas.errors import LongAtlasError
from longatlas.flops import Call, causal_softmax, growing_cache
from longatlas.slots import MIXER_REPLACES, names
from longatlas.trainings import TRAININGS, Teacher
from longatlas.words import BASELINE

_KEEPS = {"mixer", "memory", "attention", "context"}
_OPERATION = {"mixer", "attention", "memory"}


@dataclass(frozen=True)
class Part:
    """A method with the values of all its options."""

    method: Method
    options: Mapping[str, OptionValue]

    @property
    def changed(self) -> dict[str, OptionValue]:
        """The options that are not at their defaults."""
        defaults = {option.name: option.default for option in self.method.options}
        return {name: value for name, value in self.options.items() if value != defaults[name]}

    @property
    def spec(self) -> str:
        """The shortest spelling: options at their defaults are left out."""
        return ":".join([self.method.name, *(f"{name}={_text(value)}" for name, value in self.changed.items())])


@dataclass(frozen=True)
class Combination:
    """Methods whose slots are disjoint, put into one decoder. Raises LongAtlasError where two clash."""

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise LongAtlasError("a combination is empty; name at least one method")
        owner: dict[str, str] = {}
        for part in self.parts:
            for slot in _claimed(part.method):
                if slot in owner:
                    both = f"'{owner[slot]}' and '{part.method.name}' both fill the slot '{slot}'"
                    if slot in MIXER_REPLACES and any("mixer" in p.method.fills for p in self.parts):
                        both += f" (a mixer stands in place of {', '.join(MIXER_REPLACES)})"
                    raise LongAtlasError(f"{both}; only methods with disjoint slots combine: leave one of them out")
                owner[slot] = part.method.name
        samplers = [part.method.name for part in self.parts if part.method.sampler]
        if len(samplers) > 1:
            raise LongAtlasError(f"'{samplers[0]}' and '{samplers[1]}' both have a sampler; leave one of them out")

    @property
    def spec(self) -> str:
        """The canonical spelling, parts in the order they were given."""
        return "+".join(part.spec for part in self.parts)

    @property
    def name(self) -> str:
        """The methods' names without options."""
        return "+".join(part.method.name for part in self.parts)

    @property
    def title(self) -> str:
        return " + ".join(part.method.title for part in self.parts)

    @property
    def options(self) -> dict[str, OptionValue]:
        """All options of all parts; with several parts the keys are `method.option`."""
        if len(self.parts) == 1:
            return dict(self.parts[0].options)
        return {f"{p.method.name}.{name}": value for p in self.parts for name, value in p.options.items()}

    @property
    def training(self) -> str:
        """What a trained model needs before all parts are in it: the most that one of them needs."""
        return max((part.method.training for part in self.parts), key=TRAININGS.index)

    @property
    def stages(self) -> tuple[Combination, ...]:
        """What stands in a decoder one after the other: what is trained, then what is tuned, then all.

        Vanilla is trained where no part is. What changes nothing is left out; the last is the combination itself.
        """
        trained = self._parts_of("train") or parse_spec(BASELINE).parts
        tuned = self._parts_of("train", "adapt") or trained
        before = [Combination(parts) for parts in (trained, tuned) if parts != self.parts]
        return *before[: 1 if trained == tuned else 2], self

    def _parts_of(self, *trainings: str) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.method.training in trainings)

    @property
    def host(self) -> Combination:
        """What a model is trained with before the other parts are put in; vanilla when none is trained."""
        return self.stages[0]

    @property
    def teacher(self) -> Teacher | None:
        """The teacher that its objective learns from."""
        return next((part.method.teacher for part in self.parts if part.method.teacher), None)

    @property
    def sampler(self) -> Part | None:
        """The part that draws the batches of training text, where one does."""
        return next((part for part in self.parts if part.method.sampler), None)

    @property
    def exact(self) -> bool:
        """Whether every part computes what vanilla computes from the same weights."""
        return all(part.method.exact for part in self.parts)

    @property
    def ranks(self) -> bool:
        """Whether a part computes with several ranks."""
        return any(part.method.ranks for part in self.parts)

    @property
    def impls(self) -> tuple[str, ...]:
        """The impls that every part with more than one offers; a part with one impl does not restrict."""
        choices = [part.method.impls for part in self.parts if len(part.method.impls) > 1]
        if not choices:
            return self.parts[0].method.impls
        return tuple(impl for impl in choices[0] if all(impl in other for other in choices))

    @property
    def peers(self) -> tuple[str, ...]:
        """The impls "peer:name" that can be asked for."""
        return tuple(f"{PEER}{name}" for part in self.parts for name in part.method.peers)

    @property
    def offered(self) -> tuple[str, ...]:
        """Every value of `impl` that can be asked for."""
        return tuple(dict.fromkeys(("auto", *self.impls, "reference", *self.peers)))

    def check_impl(self, impl: str) -> None:
        """Raise LongAtlasError for an impl that the combination does not have."""
        _, *named = self.offered
        if impl not in ("auto", *named):
            raise LongAtlasError(f"method '{self.spec}' has no impl '{impl}'; it has: {', '.join(named)}")

    def resolve_impl(self, impl: str, device: str, dtype: str = "", head_size: int | None = None) -> str:
        """The impl that `auto` stands for on a device, in a dtype and with a head size: the first that can run so."""
        if impl != "auto":
            return impl
        return next((name for name in self.impls if not impl_obstacle(name, device, dtype, head_size)), "reference")

    @property
    def deviations(self) -> str:
        return " ".join(part.method.deviations for part in self.parts if part.method.deviations)

    @property
    def departs(self) -> frozenset[str]:
        """Rules of the conformance kit that a part departs from by its nature."""
        return frozenset(name for part in self.parts for name in part.method.departs)

    def with_lengths(self, most: int) -> Combination:
        """The same methods with their options in tokens made smaller together, the largest of each to `most`.

        So a short sequence crosses the borders of windows and segments that a long one does.
        """
        return replace(self, parts=tuple(Part(p.method, _with_lengths(p, most)) for p in self.parts))

    def builder(self, slot: str, impl: str = "auto") -> tuple[Builder, dict[str, Any]] | None:
        """The builder of a slot with its keyword arguments, or None where no part fills it; `impl` may be a peer's."""
        for part in self.parts:
            builder = part.method.builder(slot, impl)
            if builder is not None:
                return builder, dict(part.options)
        return None

    def fills(self, slot: str) -> bool:
        return any(slot in part.method.fills for part in self.parts)

    @property
    def takes_rotation(self) -> bool:
        """Whether a mixer asks for the rotation of the position slot."""
        return any(_takes_rotation(part.method) for part in self.parts)


def parse_spec(spec: str) -> Combination:
    """Read `name:option=value:option=value+name...`. Raises LongAtlasError that names what is wrong."""
    return Combination(tuple(_parse_part(text.strip(), spec) for text in spec.split("+")))


def parse_specs(text: str | Iterable[str]) -> list[Combination]:
    """Read a comma-separated list of specs, or a list of specs; the same spec twice counts once."""
    specs = text.split(",") if isinstance(text, str) else text
    found = [parse_spec(spec.strip()) for spec in specs if spec.strip()]
    return list({combination.spec: combination for combination in found}.values())


def as_combination(method: Combination | Method | str) -> Combination:
    """Accept a spec, a Method or a Combination."""
    if isinstance(method, Combination):
        return method
    if isinstance(method, Method):
        return Combination((Part(method, method.resolve_options({})),))
    return parse_spec(method)


def state_numbers(combination: Combination, call: Call) -> int | None:
    """Numbers that one layer keeps of one sequence by the cards' formulas; None where a method gives none.

    What keeps tokens is a mixer, a memory, an attention, a context, or a model method with a formula other than
    vanilla's; a method of other slots leaves it as it is.
    """
    keeping = [
        part for part in combination.parts if _decides(part, _KEEPS, part.method.state_size is not growing_cache)
    ]
    if len(keeping) > 1:
        return None
    if not keeping:
        return growing_cache(call)
    formula = keeping[0].method.state_size
    return None if formula is None else int(call_with_options(formula, call, keeping[0].options))


def operation_flops(combination: Combination, call: Call) -> float | None:
    """Of one call of one layer's operation; None where a method gives no formula.

    A method that fills the slot `position` alone changes no product and needs no formula. A model method with vanilla's
    leaves the operation as it is. Two methods that both decide it have no common formula. Where none does, it is
    vanilla's.
    """
    methods = [part.method for part in combination.parts]
    if any(method.flops is None and set(method.fills) != {"position"} for method in methods):
        return None
    parts = [part for part in combination.parts if _decides(part, _OPERATION, part.method.flops is not causal_softmax)]
    if len(parts) > 1:
        return None
    formula = parts[0].method.flops if parts else causal_softmax
    assert formula is not None
    return float(call_with_options(formula, call, parts[0].options if parts else {}))


def _decides(part: Part, slots: set[str], has_own: bool) -> bool:
    filled = set(part.method.fills)
    return bool(slots & filled) or ("model" in filled and has_own)


def call_with_options(function: Callable[..., Any], subject: Any, options: Mapping[str, Any]) -> Any:
    """Call a builder or a formula with those options that it names as parameters (all when it takes **kwargs).

    subject  what it is called with first: a builder's config, a formula's longatlas.flops.Call
    """
    return function(subject, **taken(function, options))


def taken(function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Those options that a function names as parameters; all when it takes **kwargs."""
    parameters = inspect.signature(function).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return {name: value for name, value in options.items() if takes_all or name in parameters}


def _parse_part(text: str, spec: str) -> Part:
    name, *pairs = text.split(":")
    if not name:
        raise LongAtlasError(f"the spec '{spec}' names no method at one place; write name+name")
    method = load_catalog().method(name)
    given: dict[str, str] = {}
    for pair in pairs:
        option, equals, value = pair.partition("=")
        if not equals:
            raise LongAtlasError(f"'{pair}' in the spec '{spec}' is no option; write name:option=value")
        given[option] = value
    return Part(method, method.resolve_options(given))


def _with_lengths(part: Part, most: int) -> dict[str, Any]:
    sized = [o for o in part.method.options if o.unit == "tokens" and type(o.default) is int]
    largest = max((int(part.options[o.name]) for o in sized), default=0)
    factor = min(1.0, most / largest) if largest else 1.0
    scaled = dict(part.options)
    for option in sized:
        scaled[option.name] = max(int(option.min or 0), round(int(part.options[option.name]) * factor))
    return scaled


def _claimed(method: Method) -> list[str]:
    """The slots that no other method may fill beside it."""
    slots = list(method.fills)
    if "mixer" not in slots:
        return slots
    return slots + [s for s in MIXER_REPLACES if s not in slots and not (s == "position" and _takes_rotation(method))]


def _takes_rotation(method: Method) -> bool:
    return "mixer" in method.fills and names(method.fills["mixer"], "rotate")


def _text(value: OptionValue) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
