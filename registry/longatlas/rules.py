"""What one value may be, checked in one way: of a method's option, of a plan's key and of a row's column."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from longatlas.errors import LongAtlasError, unknown_name

Choices = Iterable[str] | Callable[[], Iterable[str]]

KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_BOOLS = {"true": True, "false": False, "1": True, "0": False}


class WrongValueError(LongAtlasError):
    """A value that breaks its rule; the text begins with "is" or "has", and whoever asked names the thing."""


@dataclass(frozen=True)
class Rule:
    """One value of a kind: bool, int, float or str.

    min, max  inclusive
    choices   the allowed texts, or a function that gives them
    """

    kind: type
    min: float | None = None
    max: float | None = None
    choices: Choices = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The choices; () where any text is allowed."""
        return tuple(self.choices() if callable(self.choices) else self.choices)

    @property
    def words(self) -> str:
        """What is allowed, in words: the part of an error that says how to mend it."""
        if self.choices:
            return f"one of {', '.join(self.names)}"
        ends = (("at least", self.min), ("at most", self.max))
        bounds = " and ".join(f"{word} {_text(end)}" for word, end in ends if end is not None)
        return f"{KINDS[self.kind]} of {bounds}" if bounds else KINDS[self.kind]

    def check(self, value: Any, says: str = "is") -> Any:
        """The value, where it is of the kind and within the bounds; a whole number for a float becomes one.

        Raises WrongValueError; `says` is its first word.
        """
        whole = self.kind is float and type(value) is int
        if not (whole or type(value) is self.kind) or not self._in_bounds(value):
            raise WrongValueError(f"{says} {value!r}; expected {self.words}")
        if self.choices and value not in self.names:
            raise WrongValueError(f"{says} the {unknown_name('value', value, self.names)}")
        try:
            return float(value) if whole else value
        except OverflowError:
            raise WrongValueError(f"{says} a whole number of {len(str(value))} digits; expected {self.words}") from None

    def _in_bounds(self, value: Any) -> bool:
        above = self.min is None or value >= self.min
        return above and (self.max is None or value <= self.max)

    def read(self, text: str, says: str = "is") -> Any:
        """The value that a text spells; its bounds are not looked at. Raises WrongValueError."""
        try:
            return _BOOLS[text.lower()] if self.kind is bool else self.kind(text)
        except (KeyError, ValueError):
            raise WrongValueError(f"{says} '{text}'; expected {self.words}") from None


def _text(number: float) -> str:
    """The number, as 2^48 where it is a power of two that nobody would read in digits."""
    fraction, exponent = math.frexp(number)
    return f"2^{exponent - 1}" if fraction == 0.5 and exponent > 20 else f"{number:g}"
