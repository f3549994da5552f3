"""How a method comes into a trained model: what its card says about training. Light."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from longatlas.errors import LongAtlasError
from longatlas.rules import Rule, WrongValueError
from longatlas.words import BASELINE

if TYPE_CHECKING:
    from longatlas.cards import Method

# By what a trained model needs before a method is in it, from nothing to everything.
TRAININGS = ("retrofit", "adapt", "train")
TUNES = ("all", "new")


@dataclass(frozen=True)
class Teacher:
    """A decoder that a method's objective learns from; it is trained first, by the same recipe as any host.

    spec   the method in it
    depth  its layers, in multiples of the student's
    width  of its hidden states, in multiples of the student's; it has as many heads as the student

    Raises LongAtlasError for a teacher that is smaller than its student.
    """

    spec: str = BASELINE
    depth: int = 2
    width: int = 1

    def __post_init__(self) -> None:
        for name, rule in (("spec", Rule(str)), ("depth", Rule(int, 1)), ("width", Rule(int, 1))):
            try:
                rule.check(getattr(self, name))
            except WrongValueError as error:
                unit = "" if name == "spec" else f"; {name} counts in multiples of the student's"
                raise LongAtlasError(f"a teacher's {name} {error}{unit}") from None


def check_training(method: Method) -> None:
    """Raise LongAtlasError where what a card says about training breaks a rule or does not fit together."""
    _check_word(method, "training", TRAININGS)
    _check_word(method, "tunes", TUNES)
    for name in ("calibrate", "sampler"):
        _check_callable(method, name, getattr(method, name))
    if method.teacher is not None and not isinstance(method.teacher, Teacher):
        raise LongAtlasError(f"method '{method.name}' has teacher={method.teacher!r}; it must be a longatlas.Teacher")
    for breaks, words in _clashes(method):
        if breaks:
            raise LongAtlasError(f"method '{method.name}' {words}")


def training_words(method: Method) -> str:
    """What a card says about training, for its page."""
    teacher = method.teacher
    told = (
        method.training,
        "new weights only" if method.tunes == "new" else "",
        "fitted to its host" if method.calibrate else "",
        f"learns from '{teacher.spec}' of {teacher.depth}x its depth, {teacher.width}x its width" if teacher else "",
        "draws its own batches of text" if method.sampler else "",
    )
    return "; ".join(filter(None, told))


def _check_word(method: Method, name: str, words: tuple[str, ...]) -> None:
    value = getattr(method, name)
    if value not in words:
        known = " or ".join(filter(None, (", ".join(map(repr, words[:-1])), repr(words[-1]))))
        raise LongAtlasError(f"method '{method.name}' has {name}={value!r}; it must be {known}")


def _check_callable(method: Method, name: str, value: Callable[..., Any] | None) -> None:
    if value is not None and not callable(value):
        raise LongAtlasError(
            f"method '{method.name}' has {name}={value!r}, which cannot be called; give a function, or leave it out"
        )


def _clashes(method: Method) -> tuple[tuple[bool, str], ...]:
    training = f"training='{method.training}'"
    return (
        (
            method.tunes != "all" and method.training != "adapt",
            f"has tunes='{method.tunes}' and {training}; only a method with training='adapt' is tuned",
        ),
        (
            method.calibrate is not None and method.training == "train",
            f"has calibrate and {training}; it is fitted to a trained host: take training='retrofit' or 'adapt'",
        ),
        (
            method.teacher is not None and "objective" not in method.fills,
            "has a teacher and fills no objective, so nothing would learn from it; fill the slot 'objective' too",
        ),
        (
            method.sampler is not None and method.training == "retrofit" and method.calibrate is None,
            f"has a sampler and {training}, so nothing would be drawn by it; take training='adapt' or 'train'",
        ),
    )
