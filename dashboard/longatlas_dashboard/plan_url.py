"""A plan in the Run page's address, and back: every key of it, by the name that the key has in addresses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from longatlas.harness.plan import KEYS, Plan, PlanError
from longatlas.harness.plan_key import Key, split

# What a number field of a browser can hold.
LARGEST = (1 << 53) - 1


def query_of(plan: Plan) -> dict[str, str]:
    """Every key by its name in the address; "" for one at its default."""
    return {key.address or name: _text(key, getattr(plan, name)) for name, key in KEYS.items()}


def values_of(query: Callable[[str], str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Values by key of what an address says, and by key what is wrong with those that are left out.

    Lists stay lists of text: a form shows what is wrong with one of their values at its field.
    """
    values: dict[str, Any] = {}
    wrong: dict[str, str] = {}
    for name, key in KEYS.items():
        text = query(key.address or name).strip()
        if key.many and text:
            values[name] = tuple(dict.fromkeys(split(text)))
        elif text:
            try:
                values[name] = key.read(text)
                if key.kind is not str and not abs(values[name]) <= LARGEST:
                    raise PlanError(name, f"is '{text}'; expected {key.rule.words}")
            except PlanError as error:
                values.pop(name, None)
                wrong[name] = f"{error.text}; the address has it, and the default stands in"
    return values, wrong


def _text(key: Key, value: Any) -> str:
    return "" if value == key.default else key.write(value)
