"""The decoder that another one's objective learns from (Method.teacher)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from longatlas.combination import Combination, parse_spec
from longatlas.decoder.config import DecoderConfig
from longatlas.errors import LongAtlasError
from longatlas.slots import names

if TYPE_CHECKING:
    from longatlas.decoder.decoder import Decoder

FORM = "objective(decoder, tokens, labels=None, *, teacher)"


def teacher_of(combination: Combination, config: DecoderConfig) -> tuple[Combination, DecoderConfig] | None:
    """The method and the shape of the teacher that a student of this shape learns from; None where it has none.

    Raises LongAtlasError for a spec that is none, or that names a method with a teacher of its own.
    """
    card = combination.teacher
    if card is None:
        return None
    try:
        method = parse_spec(card.spec)
    except LongAtlasError as error:
        raise LongAtlasError(f"the teacher of '{combination.name}' has spec='{card.spec}': {error}") from None
    if method.teacher is not None:
        raise LongAtlasError(
            f"the teacher of '{combination.name}' is '{card.spec}', which has a teacher itself; name one without"
        )
    larger = replace(
        config,
        n_layers=config.n_layers * card.depth,
        d_model=config.d_model * card.width,
        head_size=config.head_size * card.width,
        ffn_hidden=None if config.ffn_hidden is None else config.ffn_hidden * card.width,
    )
    return method, larger


def takes_teacher(objective: Any) -> bool:
    """Whether an objective names a parameter `teacher`."""
    return names(getattr(objective, "forward", objective), "teacher")


def check_teacher(combination: Combination, objective: Any) -> None:
    """Raise LongAtlasError where a card and its objective do not agree about a teacher."""
    if takes_teacher(objective) and combination.teacher is None:
        raise LongAtlasError(
            f"the objective of '{combination.spec}' takes a teacher, and its card names none; give the card "
            "teacher=longatlas.Teacher(...)"
        )
    if combination.teacher is not None and not takes_teacher(objective):
        raise LongAtlasError(f"'{combination.spec}' has a teacher that its objective does not take; write {FORM}")


def give_random_teacher(decoder: Decoder) -> Decoder:
    """The decoder, with an untrained teacher where its objective learns from one: to check and to time its training."""
    made = teacher_of(decoder.combination, decoder.config)
    if made is not None:
        like = next(decoder.parameters())
        decoder.learn_from(type(decoder)(made[1], made[0]).to(like.device, like.dtype))
    return decoder
