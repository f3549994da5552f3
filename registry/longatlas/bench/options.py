"""pytest's options, made of a plan's keys, and from them to plans. A wrong value is told in the plan's own words."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import pytest

from longatlas.errors import LongAtlasError
from longatlas.harness.plan import KEYS, Plan, load_plan, plan_from_values, read_key
from longatlas.harness.plan_key import split
from longatlas.measures import shaped

LENGTHS = (512, 2048)
# Keys that a case gives, and what the suite takes where an option is not given.
OF_A_CASE = ("lengths", "batch", "heads", "head_size")
OFFERED = {name: key for name, key in KEYS.items() if name not in OF_A_CASE}
DEFAULTS: dict[str, Any] = {"measure": shaped(), "budget": 0.5, "layers": 1}
_CASE = re.compile(r"B(?P<batch>\d+)_T(?P<length>\d+)_H(?P<heads>\d+)_D(?P<head_size>\d+)")
# Others than the keys of a plan.
OWN = {
    "cases": "Comma-separated shapes such as B1_T2048_H8_D64, or lengths such as 512,2048 at B1_H8_D64.",
    "plan": "A plan's YAML file in place of the options above.",
    "store": "Keep the rows in this store (a path or URL), and take what is finished from there.",
    "baseline": "Compare with this store, file of rows or saved run, or `shipped`, in longatlas's own section.",
    "fail": "Fail where worse than the baseline by more than: median:5%,peak_bytes:2%,accuracy:-1pt.",
}

Shape = tuple[int, int, int]  # batch, heads, head size


def options() -> dict[str, str]:
    """Every `--longatlas-` option and its help."""
    own = {"methods": "Default: those of the demo, and every third-party method that is ready."}
    own |= {name: f"Default: {KEYS[name].write(value)}." for name, value in DEFAULTS.items()}
    keys = {key.flag: f"{key.help} {own.get(name, '')}".strip() for name, key in OFFERED.items()}
    return {**keys, **OWN}


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
    for name in ("cases", *(key.flag for key in OFFERED.values())):
        if option(config, name) is not None:
            raise LongAtlasError(f"--longatlas-plan takes the place of --longatlas-{name}; put it into the plan's file")


def option(config: pytest.Config, name: str) -> str | None:
    """The value of `--longatlas-name`, None when it was not given."""
    value: str | None = config.getoption(f"--longatlas-{name}")
    return value


def _values(config: pytest.Config) -> dict[str, Any]:
    from longatlas.harness.demo import METHODS, third_party_methods  # they need the catalog

    texts = {name: option(config, key.flag) for name, key in OFFERED.items()}
    given = {
        name: read_key(f"--longatlas-{KEYS[name].flag}", name, text) for name, text in texts.items() if text is not None
    }
    return {"methods": (*METHODS, *third_party_methods()), **DEFAULTS, **given}


def _shapes(text: str | None) -> dict[Shape, list[int]]:
    """Lengths by shape, in the order they were named."""
    found: dict[Shape, list[int]] = defaultdict(list)
    for part in split(text) if text is not None else map(str, LENGTHS):
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
