"""Errors that name the thing, the value, the rule and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LongAtlasError(ValueError):
    """Bad input. The command line prints its text and exits with 2; nothing has been changed."""


class UnknownNameError(LongAtlasError):
    """A name that is in no registry; the text suggests the nearest one."""


class UnsupportedError(RuntimeError):
    """A method cannot do what was asked on this machine or in this case; the text says why.

    A measurement that meets it becomes a row with status `unsupported`, not a crash.
    """


def unknown_name(kind: str, name: str, known: Iterable[str], remedy: str = "") -> UnknownNameError:
    """Build the error for `name`, which is none of the `known` names of this `kind`.

    `remedy` is a sentence that is added at the end, for example which command lists the names.
    """
    names = sorted(known)
    text = f"unknown {kind} '{name}'"
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        text += f"; did you mean '{near[0]}'?"
    elif names and len(names) <= 16:
        text += f"; known: {', '.join(names)}"
    if remedy:
        text += f" ({remedy})"
    return UnknownNameError(text)


OUT_OF_MEMORY = ("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory", "bad_alloc")


def is_about_memory(text: str) -> bool:
    """Whether an error's text says that memory ran out."""
    return any(words in text.lower() for words in OUT_OF_MEMORY)
