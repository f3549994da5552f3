"""A plan in the Run page's address, and back: every key of it, short names for those that are set most."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from longatlas.harness.plan import KEYS, LISTS, Plan

# Part of the dashboard's addresses: these names are kept. Other keys stand there under their own names.
SHORT = {
    "methods": "m",
    "measure": "w",
    "phases": "p",
    "levels": "l",
    "lengths": "t",
    "tasks": "q",
    "preset": "z",
}
NAMES = {key: SHORT.get(key, key) for key in KEYS}
# What a number field of a browser can hold.
LARGEST = (1 << 53) - 1


def query_of(plan: Plan) -> dict[str, str]:
    """Every key by its name in the address; "" for one at its default."""
    return {
        NAMES[key]: "" if getattr(plan, key) == field.default else _text(getattr(plan, key))
        for key, field in KEYS.items()
    }


def values_of(query: Callable[[str], str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Values by key of what an address says, and by key what is wrong with those that are left out.

    Lists stay lists of text: a form shows what is wrong with one of their values at its field.
    """
    found: dict[str, Any] = {}
    wrong: dict[str, str] = {}
    for key, name in NAMES.items():
        text = query(name).strip()
        if not text:
            continue
        if key in LISTS:
            found[key] = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
        elif KEYS[key].type == "str":
            found[key] = text
        else:
            kind = int if KEYS[key].type == "int" else float
            try:
                number = kind(text)
            except ValueError:
                number = LARGEST + 1
            if abs(number) <= LARGEST:
                found[key] = number
            else:
                words = "a whole number" if kind is int else "a number"
                wrong[key] = f"is '{text}' in the address; expected {words}, and the default stands in"
    return found, wrong


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
