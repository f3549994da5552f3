"""From pytest's options to plans. Every wrong value is a UsageError with the plan's own words."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import pytest

from longatlas.combination import parse_specs
from longatlas.errors import LongAtlasError
from longatlas.harness.demo import METHODS, third_party_methods
from longatlas.harness.plan import Plan, load_plan, plan_from_values

LENGTHS = (512, 2048)
_CASE = re.compile(r"B(?P<batch>\d+)_T(?P<length>\d+)_H(?P<heads>\d+)_D(?P<head_size>\d+)")
_LISTS = ("phases", "levels", "measure", "tasks")
_TEXTS = ("preset", "device", "dtype")
_NUMBERS = {"layers": int, "threads": int, "budget": float, "timeout": float}

Shape = tuple[int, int, int]  # batch, heads, head size


def plans_of(config: pytest.Config) -> list[Plan]:
    """The plans that the options ask for, one per shape. Raises LongAtlasError."""
    file = option(config, "plan")
    if file is not None:
        _check_alone(config)
        return [load_plan(file)]
    values = _values(config)
    return [
        plan_from_values({**values, "batch": batch, "heads": heads, "head_size": size, "lengths": tuple(lengths)})
        for (batch, heads, size), lengths in _shapes(option(config, "cases")).items()
    ]


def _check_alone(config: pytest.Config) -> None:
    for name in ("methods", "cases", *_LISTS, *_TEXTS, *_NUMBERS):
        if option(config, name) is not None:
            raise LongAtlasError(f"--longatlas-plan takes the place of --longatlas-{name}; put it into the plan's file")


def option(config: pytest.Config, name: str) -> str | None:
    """The value of `--longatlas-name`, None when it was not given."""
    value: str | None = config.getoption(f"--longatlas-{name}")
    return value


def _values(config: pytest.Config) -> dict[str, Any]:
    named = option(config, "methods")
    methods = [c.spec for c in parse_specs(named)] if named else [*METHODS, *third_party_methods()]
    values: dict[str, Any] = {"methods": tuple(methods), "measure": ("speed", "memory"), "budget": 0.5, "layers": 1}
    for name in _LISTS:
        given = option(config, name)
        if given is not None:
            values[name] = tuple(_split(given))
    values |= {name: text for name in _TEXTS if (text := option(config, name)) is not None}
    for name, kind in _NUMBERS.items():
        given = option(config, name)
        if given is not None:
            values[name] = _number(name, given, kind)
    return values


def _number(name: str, text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError:
        words = "a whole number" if kind is int else "a number"
        raise LongAtlasError(f"--longatlas-{name} is '{text}'; expected {words}") from None


def _shapes(text: str | None) -> dict[Shape, list[int]]:
    """Lengths by shape, in the order they were named."""
    found: dict[Shape, list[int]] = defaultdict(list)
    for part in _split(text) if text is not None else map(str, LENGTHS):
        named = _CASE.fullmatch(part)
        if named:
            shape = (int(named["batch"]), int(named["heads"]), int(named["head_size"]))
            found[shape].append(int(named["length"]))
        elif part.isascii() and part.isdigit():
            found[1, 8, 64].append(int(part))
        else:
            raise LongAtlasError(
                f"--longatlas-cases has '{part}'; expected a shape such as B1_T2048_H8_D64, or a length such as 2048"
            )
    if not found:
        raise LongAtlasError("--longatlas-cases names nothing; give lengths such as 512,2048")
    return found


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
