"""A key of a plan: everything that a file, a flag, a field of a form and an address need to know of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from longatlas.errors import LongAtlasError
from longatlas.rules import Choices, Rule, WrongValueError


class PlanError(LongAtlasError):
    """A value of a plan that breaks its rule; `key` is its key, `item` its place where the value is a list."""

    def __init__(self, key: str, text: str, item: int | None = None) -> None:
        super().__init__(f"plan: {key} {text}")
        self.key, self.text, self.item = key, text, item


@dataclass(frozen=True)
class Key:
    """One key. Its type is the default's; a tuple makes it a list, whose items have the type of the first one.

    help      one sentence, for the command line and for pytest
    min, max  inclusive bounds of a number
    choices   the allowed texts, or a function that gives them
    open      `choices` are offered by the form, and other texts are allowed too
    label, placeholder  of its field in the dashboard's form; without a label its name is shown
    address   its name in the dashboard's addresses, which is kept; "" = its name
    section   where the form has it: "shape", "quality", or "details", which are folded away
    """

    name: str
    default: Any
    help: str
    min: float | None = None
    max: float | None = 2**48
    choices: Choices = ()
    open: bool = False
    label: str = ""
    placeholder: str = ""
    address: str = ""
    section: str = "details"

    @property
    def many(self) -> bool:
        """Whether it is a list."""
        return isinstance(self.default, tuple)

    @property
    def kind(self) -> type:
        """The type of its value, or of each item of a list."""
        return type(next(iter(self.default), "")) if self.many else type(self.default)

    @property
    def rule(self) -> Rule:
        """What one value may be."""
        bounds = (self.min, self.max) if self.kind in (int, float) else (None, None)
        return Rule(self.kind, *bounds, () if self.open else self.choices)

    @property
    def offered(self) -> tuple[str, ...]:
        """What a form offers."""
        return Rule(self.kind, choices=self.choices).names

    @property
    def shown(self) -> str:
        """What a form calls it."""
        return self.label or self.name

    @property
    def flag(self) -> str:
        """Its name as an option of a command."""
        return self.name.replace("_", "-")

    def check(self, value: Any) -> Any:
        """The value as a plan holds it: a list without repeats as a tuple. Raises PlanError."""
        if not self.many:
            return self._named(self.rule.check, value)
        if not isinstance(value, list | tuple):
            raise PlanError(self.name, f"is {value!r}; expected a list")
        return tuple(dict.fromkeys(self._named(self.rule.check, item, place) for place, item in enumerate(value)))

    def read(self, text: str) -> Any:
        """The value that a text spells, a list with commas; its bounds are not looked at. Raises PlanError."""
        if not self.many:
            return self._named(self.rule.read, text)
        return tuple(self._named(self.rule.read, part, place) for place, part in enumerate(split(text)))

    def write(self, value: Any) -> str:
        """The text that `read` takes."""
        if self.many:
            return ",".join(map(str, value))
        short = f"{value:g}" if isinstance(value, float) else str(value)
        return short if self.kind is not float or float(short) == value else str(value)

    def _named(self, ask: Callable[[Any, str], Any], value: Any, item: int | None = None) -> Any:
        try:
            return ask(value, "is" if item is None else "has")
        except WrongValueError as error:
            raise PlanError(self.name, str(error), item) from None


def split(text: str) -> list[str]:
    """The parts of a list that is written with commas."""
    return [part.strip() for part in text.split(",") if part.strip()]
