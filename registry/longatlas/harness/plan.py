"""The plan: what to measure. A YAML file, command-line flags and the dashboard's form make the same object."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from longatlas import yamlfile
from longatlas.catalog import load_catalog
from longatlas.combination import Combination, parse_spec
from longatlas.errors import LongAtlasError, unknown_name
from longatlas.words import DEVICES, DTYPES, LEVELS, PHASES, POLICIES, PRESETS

MEASURES = ("speed", "memory", "quality")

LISTS = ("methods", "measure", "phases", "levels", "lengths", "tasks")
LARGEST = 2**48


class PlanError(LongAtlasError):
    """A value of a plan that breaks its rule; `key` is its key, `item` its place where the value is a list."""

    def __init__(self, key: str, text: str, item: int | None = None) -> None:
        super().__init__(f"plan: {key} {text}")
        self.key, self.text, self.item = key, text, item


@dataclass(frozen=True)
class Plan:
    """What to measure, and how.

    methods    specs, such as "vanilla" or "yarn:factor=4+sliding_window"
    measure    some of speed, memory, quality
    phases     some of train, prefill, decode (speed and memory)
    levels     some of operation (q, k, v), layer, decoder (speed and memory)
    lengths    T, tokens (speed and memory)
    tasks      quality tasks by name
    preset     size of the quality tasks: smoke, demo, quick or paper
    impl       which implementation: auto, or one that every method offers
    policy     how time is taken: wall, gpu_cold or gpu_hot; auto = wall on a CPU, gpu_cold on a GPU
    device     cpu or cuda
    dtype      float32, bfloat16, float16 or float64
    batch, layers, heads, head_size   the case that speed and memory are measured at
    corpus     a file or folder of text for the language model; "" = the Python standard library's source
    budget     seconds of samples for one timing, at most
    timeout    seconds for one cell, at most
    threads    CPU threads; 0 = as many as there are cores
    memory_gib memory a worker may take, GiB; 0 = 80% of the machine's, or what is free where that is less
    seed       of weights and data

    Raises PlanError that names the key, the value and the rule.
    """

    methods: tuple[str, ...]
    measure: tuple[str, ...] = MEASURES
    phases: tuple[str, ...] = PHASES
    levels: tuple[str, ...] = ("decoder",)
    lengths: tuple[int, ...] = (512, 1024, 2048, 4096)
    tasks: tuple[str, ...] = ("language_model",)
    preset: str = "quick"
    impl: str = "auto"
    policy: str = "auto"
    device: str = "cpu"
    dtype: str = "float32"
    batch: int = 1
    layers: int = 2
    heads: int = 4
    head_size: int = 32
    corpus: str = ""
    budget: float = 2.0
    timeout: float = 600.0
    threads: int = 0
    memory_gib: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_types()
        self._check_methods()
        self._check_names("measure", MEASURES)
        self._check_names("phases", PHASES)
        self._check_names("levels", LEVELS)
        self._check_names("tasks", load_catalog().tasks)
        policies = ("auto", *POLICIES)
        for key, known in (("preset", PRESETS), ("policy", policies), ("device", DEVICES), ("dtype", DTYPES)):
            if getattr(self, key) not in known:
                raise PlanError(key, f"is the {unknown_name('value', getattr(self, key), known)}")
        if self.device == "cpu" and self.policy not in ("auto", "wall"):
            raise PlanError("policy", f"is '{self.policy}', which needs a GPU; on a CPU it is wall")
        self._check_numbers()
        self._check_not_empty()
        for key in LISTS:
            object.__setattr__(self, key, tuple(dict.fromkeys(getattr(self, key))))

    def _check_types(self) -> None:
        for key, field in KEYS.items():
            value = getattr(self, key)
            if key in LISTS:
                self._check_list(key, value)
            elif field.type == "str" and not isinstance(value, str):
                raise PlanError(key, f"is {value!r}; expected text")
        if self.corpus:  # a job runs it in another folder
            object.__setattr__(self, "corpus", str(Path(self.corpus).expanduser().absolute()))

    def _check_list(self, key: str, value: Any) -> None:
        if not isinstance(value, list | tuple):
            raise PlanError(key, f"is {value!r}; expected a list")
        for place, item in enumerate(value):
            if key != "lengths" and not isinstance(item, str):
                raise PlanError(key, f"has {item!r}; expected text", place)
        object.__setattr__(self, key, tuple(value))

    def _check_methods(self) -> None:
        specs = []
        for place, spec in enumerate(self.methods):
            try:
                specs.append(parse_spec(spec).spec)
            except LongAtlasError as error:
                raise PlanError("methods", f"has an error: {error}", place) from None
        if not specs:
            raise PlanError("methods", "is empty; name at least one (see `longatlas list`)")
        object.__setattr__(self, "methods", tuple(dict.fromkeys(specs)))
        for combination in self.combinations:
            if self.impl not in ("auto", "reference", *combination.impls):
                offered = ", ".join(("auto", *combination.impls))
                raise PlanError(
                    "impl", f"is '{self.impl}', which '{combination.spec}' does not have; it has: {offered}"
                )

    def _check_names(self, key: str, known: Any) -> None:
        for place, name in enumerate(getattr(self, key)):
            if name not in known:
                raise PlanError(key, f"has the {unknown_name('name', name, known)}", place)

    def _check_not_empty(self) -> None:
        shaped = "speed" in self.measure or "memory" in self.measure
        used = {
            "measure": True,
            "phases": shaped,
            "levels": shaped,
            "lengths": shaped,
            "tasks": "quality" in self.measure,
        }
        known = {"measure": MEASURES, "phases": PHASES, "levels": LEVELS, "tasks": load_catalog().tasks}
        for key, needed in used.items():
            if needed and not getattr(self, key):
                some = f"name some of {', '.join(known[key])}" if key in known else "give some, such as 512"
                raise PlanError(key, f"is empty; {some}")

    def _check_numbers(self) -> None:
        for place, length in enumerate(self.lengths):
            _check_number("lengths", length, int, 1, place)
        for key in ("batch", "layers", "heads", "head_size"):
            _check_number(key, getattr(self, key), int, 1)
        for key in ("threads", "seed"):
            _check_number(key, getattr(self, key), int, 0)
        for key, least in (("budget", 0.01), ("timeout", 1), ("memory_gib", 0)):
            _check_number(key, getattr(self, key), float, least)
            object.__setattr__(self, key, float(getattr(self, key)))
        if self.head_size % 2:
            raise PlanError("head_size", f"is {self.head_size}; it must be even (rotary embedding turns pairs)")

    @property
    def combinations(self) -> list[Combination]:
        return [parse_spec(spec) for spec in self.methods]

    def as_dict(self) -> dict[str, Any]:
        """All keys with plain lists, as in a YAML file."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def to_yaml(self) -> str:
        """The plan as a YAML file; keys at their defaults are left out."""
        return str(yaml.safe_dump(self._changed(), sort_keys=False))

    def to_command(self) -> list[str]:
        """The `longatlas run` command that makes the same plan, as an argument list."""
        command = ["longatlas", "run"]
        for key, value in self._changed().items():
            text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            command += [f"--{key.replace('_', '-')}", text]
        return command

    @property
    def hash(self) -> str:
        """Content hash, 12 hexadecimal digits: the same plan has the same hash."""
        text = json.dumps(self.as_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def _changed(self) -> dict[str, Any]:
        defaults = {f.name: f.default for f in fields(self)}
        return {
            key: value
            for key, value in self.as_dict().items()
            if (tuple(value) if isinstance(value, list) else value) != defaults[key]
        }

    def with_values(self, values: Mapping[str, Any]) -> Plan:
        """A copy with some keys replaced; checked anew."""
        return plan_from_values({**{key: getattr(self, key) for key in KEYS}, **values})


KEYS = {field.name: field for field in fields(Plan)}


def load_plan(path: Path | str) -> Plan:
    """Read a plan from YAML. Raises LongAtlasError with file, line and what was expected."""
    return _from_entry(yamlfile.read(Path(path)))


def plan_from_yaml(text: str, file: str = "plan.yaml") -> Plan:
    """Read a plan from YAML text; `file` names it in errors."""
    return _from_entry(yamlfile.parse(text, file))


def _from_entry(entry: yamlfile.Entry) -> Plan:
    kinds: dict[str, Any] = {"int": int, "float": (int, float), "str": str}
    values: dict[str, Any] = {}
    for key, field in KEYS.items():
        if not entry.has(key):
            continue
        kind = str(field.type)
        value = entry.get(key, list if kind.startswith("tuple") else kinds[kind])
        values[key] = value
    entry.finish(KEYS)
    if "methods" not in values:
        raise entry.error("lacks the key 'methods'; expected a list of methods")
    try:
        return Plan(**values)
    except PlanError as error:
        raise entry.key_error(error.key, error.text, error.item) from None


def plan_from_values(values: Mapping[str, Any]) -> Plan:
    """A plan from a mapping of its keys. Raises PlanError for an unknown key, with a suggestion."""
    for key in values:
        if key not in KEYS:
            raise PlanError(str(key), f"is no key of a plan: {unknown_name('key', str(key), KEYS)}")
    if "methods" not in values:
        raise PlanError("methods", "is missing; expected a list of methods")
    return Plan(**values)


def _check_number(key: str, value: Any, kind: type, least: float, item: int | None = None) -> None:
    right = type(value) is int or (kind is float and type(value) is float)
    if not right or not least <= value <= LARGEST:
        words = f"{'a whole number' if kind is int else 'a number'} of at least {least:g}"
        words += " and at most 2^48" if right and value > LARGEST else ""
        raise PlanError(key, f"{'is' if item is None else 'has'} {value!r}; expected {words}", item)
