"""The plan: what to measure. A YAML file, command-line flags and the dashboard's form make the same object.

Catalog, methods and YAML are imported where they are used: every run of pytest loads this module for its options.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from longatlas.cards import PEER
from longatlas.errors import LongAtlasError, unknown_name
from longatlas.harness.plan_key import Key, PlanError, split
from longatlas.measures import MEASURES
from longatlas.words import DEVICES, DTYPES, LEVELS, PHASES, POLICIES, PRESETS

if TYPE_CHECKING:
    from longatlas.combination import Combination
    from longatlas.yamlfile import Entry

__all__ = ["KEYS", "Plan", "PlanError", "load_plan", "load_plans", "plan_from_values", "plan_from_yaml", "read_key"]


LATER: Mapping[str, Any] = {"kv_heads": 0, "ranks": [1]}  # keys that 0.1.0 did not have, at their defaults


def _key(default: Any, help: str, *, required: bool = False, **more: Any) -> Any:
    """A field of a Plan that is a Key with its own name."""
    about = {"default": default, "help": help, **more}
    return field(default=MISSING if required else default, metadata=about)


def _tasks() -> Iterable[str]:
    from longatlas.catalog import load_catalog

    return load_catalog().tasks


def _impls() -> Iterable[str]:
    from longatlas.catalog import load_catalog

    methods = load_catalog().methods.values()
    named = {impl for method in methods for impl in method.impls}
    return ("auto", *sorted(named), *sorted({f"{PEER}{name}" for method in methods for name in method.peers}))


@dataclass(frozen=True)
class Plan:
    """What to measure, and how: each field is a key, described in KEYS. Everything about a key stands here.

    Raises PlanError that names the key, the value and the rule.
    """

    methods: tuple[str, ...] = _key(
        (),
        "Methods, with options and combined: vanilla,yarn:factor=4+sliding_window.",
        required=True,
        address="m",
        section="",
    )
    measure: tuple[str, ...] = _key(
        tuple(MEASURES),
        f"Some of {', '.join(MEASURES)}.",
        choices=lambda: MEASURES,
        label="Measure",
        address="w",
        section="shape",
    )
    phases: tuple[str, ...] = _key(
        PHASES,
        "Some of train, prefill, decode (speed and memory).",
        choices=PHASES,
        label="Phases (time and memory)",
        address="p",
        section="shape",
    )
    levels: tuple[str, ...] = _key(
        ("decoder",),
        "Some of operation (q, k, v), layer, decoder (speed and memory).",
        choices=LEVELS,
        label="Levels (time and memory)",
        address="l",
        section="shape",
    )
    lengths: tuple[int, ...] = _key(
        (512, 1024, 2048, 4096),
        "Tokens T (speed and memory).",
        min=1,
        label="T, tokens (time and memory)",
        address="t",
        section="shape",
    )
    tasks: tuple[str, ...] = _key(
        ("language_model",),
        "Quality tasks: language_model, mqar, passkey, or a plugin's.",
        choices=_tasks,
        label="Tasks (quality)",
        address="q",
        section="quality",
    )
    preset: str = _key(
        "quick",
        "Size of the quality tasks: smoke (seconds), demo or quick (minutes), paper (as published).",
        choices=PRESETS,
        label="Size of the quality tasks",
        address="z",
        section="quality",
    )
    impl: str = _key(
        "auto",
        "One impl that every method has, auto, a peer (peer:fla), or several: triton,peer:fla measures each method in"
        " those of them that it has.",
        choices=_impls,
        open=True,
    )
    policy: str = _key(
        "auto",
        "How time is taken: wall, gpu_cold or gpu_hot; auto = wall on a CPU, gpu_cold on a GPU.",
        choices=("auto", *POLICIES),
    )
    device: str = _key("cpu", "cpu or cuda.", choices=DEVICES)
    dtype: str = _key("float32", "float32, bfloat16, float16 or float64.", choices=DTYPES)
    batch: int = _key(1, "Sequences at once.", min=1)
    layers: int = _key(2, "Layers of the measured decoder.", min=1)
    heads: int = _key(4, "Its heads H.", min=1)
    head_size: int = _key(32, "Its head size D.", min=1)
    kv_heads: int = _key(0, "Its heads of k and v; 0 = H.", min=0, label="kv_heads (0: heads)")
    ranks: tuple[int, ...] = _key(
        (1,),
        "Ranks that compute together, each a process (speed and memory), such as 1,2,4.",
        min=1,
        max=1024,
        label="ranks (time and memory)",
    )
    corpus: str = _key(
        "",
        "File or folder of text for language_model; default: the Python standard library's source.",
        label="Corpus: a file or folder of text",
        placeholder="empty: Python's standard library",
        section="quality",
    )
    budget: float = _key(2.0, "Seconds of samples for one timing, at most.", min=0.01, label="budget, s for one timing")
    timeout: float = _key(600.0, "Seconds for one cell, at most.", min=1, label="timeout, s for one cell")
    threads: int = _key(0, "CPU threads; 0 = all cores.", min=0, label="threads (0: all cores)")
    memory_gib: float = _key(
        0.0,
        "Memory a worker may take, GiB; 0 = 80% of the machine's, or what is free.",
        min=0,
        label="memory_gib, GiB (0: 80%)",
    )
    seed: int = _key(0, "Of weights and data.", min=0)

    def __post_init__(self) -> None:
        if isinstance(self.impl, list | tuple) and all(isinstance(name, str) for name in self.impl):
            self._set("impl", ",".join(self.impl))
        for key in KEYS.values():
            self._set(key.name, key.check(getattr(self, key.name)))
        self._set("impl", ",".join(dict.fromkeys(split(self.impl))))
        self._check_methods()
        self._check_impls()
        self._check_not_empty()
        if self.device == "cpu" and self.policy not in ("auto", "wall"):
            raise PlanError("policy", f"is '{self.policy}', which needs a GPU; on a CPU it is wall")
        if self.head_size % 2:
            raise PlanError("head_size", f"is {self.head_size}; it must be even (rotary embedding turns pairs)")
        if self.heads % (self.kv_heads or self.heads):
            raise PlanError("kv_heads", f"is {self.kv_heads}; it must be a divisor of heads, {self.heads}")
        if self.corpus:  # a job runs it in another folder
            self._set("corpus", str(Path(self.corpus).expanduser().absolute()))

    def _set(self, key: str, value: Any) -> None:
        object.__setattr__(self, key, value)

    def _check_methods(self) -> None:
        from longatlas.combination import parse_spec

        specs = []
        for place, spec in enumerate(self.methods):
            try:
                specs.append(parse_spec(spec).spec)
            except LongAtlasError as error:
                raise PlanError("methods", f"has an error: {error}", place) from None
        if not specs:
            raise PlanError("methods", "is empty; name at least one (see `longatlas list`)")
        self._set("methods", tuple(dict.fromkeys(specs)))

    def _check_impls(self) -> None:
        """Every method has one of the impls, and every impl belongs to one of the methods."""
        wanted = split(self.impl)
        offered = {combination.spec: combination.offered for combination in self.combinations}
        for spec, known in offered.items():
            if not set(wanted) & set(known):
                has = f"is '{self.impl}', which '{spec}' does not have; it has: {', '.join(known)}"
                raise PlanError("impl", has if wanted else "is empty; name one, such as auto")
        every = dict.fromkeys(name for known in offered.values() for name in known)
        for name in wanted:
            if name not in every:
                raise PlanError("impl", f"has '{name}', which no method of the plan has; they have: {', '.join(every)}")

    def impls_of(self, combination: Combination) -> tuple[str, ...]:
        """The impls that a method of the plan is measured in; `auto` is what it stands for."""
        names = [name for name in split(self.impl) if name in combination.offered]
        resolved = (combination.resolve_impl(name, self.device, self.dtype, self.head_size) for name in names)
        return tuple(dict.fromkeys(resolved))

    def _check_not_empty(self) -> None:
        needed = {"measure": None} | {key: None for name in self.measure for key in MEASURES[name].needs}
        for key in map(KEYS.__getitem__, needed):
            if not getattr(self, key.name):
                some = (
                    f"name some of {', '.join(key.offered)}" if key.choices else f"give some, such as {key.default[0]}"
                )
                raise PlanError(key.name, f"is empty; {some}")

    @property
    def combinations(self) -> list[Combination]:
        from longatlas.combination import parse_spec

        return [parse_spec(spec) for spec in self.methods]

    def as_dict(self) -> dict[str, Any]:
        """All keys with plain lists, as in a YAML file."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def to_yaml(self) -> str:
        """The plan as a YAML file; keys at their defaults are left out."""
        import yaml

        return str(yaml.safe_dump(self._changed(), sort_keys=False))

    def to_command(self) -> list[str]:
        """The `longatlas run` command that makes the same plan, as an argument list."""
        command = ["longatlas", "run"]
        for key, value in self._changed().items():
            text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            command += [f"--{KEYS[key].flag}", text]
        return command

    @property
    def hash(self) -> str:
        """Content hash, 12 hexadecimal digits: the same plan has the same hash."""
        # A key that came later leaves the hashes of plans without it as they were.
        values = {key: value for key, value in self.as_dict().items() if value != LATER.get(key)}
        text = json.dumps(values, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def _changed(self) -> dict[str, Any]:
        return {key: value for key, value in self.as_dict().items() if getattr(self, key) != KEYS[key].default}

    def with_values(self, values: Mapping[str, Any]) -> Plan:
        """A copy with some keys replaced; checked anew."""
        return plan_from_values({**{key: getattr(self, key) for key in KEYS}, **values})


KEYS = {each.name: Key(each.name, **each.metadata) for each in fields(Plan)}


def read_key(option: str, name: str, text: str) -> Any:
    """The value of a key that an option's text spells. Raises LongAtlasError that names the option."""
    try:
        return KEYS[name].read(text)
    except PlanError as error:
        raise LongAtlasError(f"{option} {error.text}") from None


def load_plan(path: Path | str) -> Plan:
    """Read a plan from YAML. Raises LongAtlasError with file, line and what was expected."""
    from longatlas import yamlfile

    return _from_entry(yamlfile.read(Path(path)))


def load_plans(path: Path | str) -> list[Plan]:
    """The plans of a YAML file: those of its list `plans`, with the keys that stand beside it, or its only one.

    Raises LongAtlasError with file, line and what was expected.
    """
    from longatlas import yamlfile

    entry = yamlfile.read(Path(path))
    if not entry.has("plans"):
        return [_from_entry(entry)]
    plans, shared = entry.entries("plans"), _values(entry)
    entry.finish(KEYS)
    return [_from_entry(each, shared) for each in plans]


def plan_from_yaml(text: str, file: str = "plan.yaml") -> Plan:
    """Read a plan from YAML text; `file` names it in errors."""
    from longatlas import yamlfile

    return _from_entry(yamlfile.parse(text, file))


def _values(entry: Entry) -> dict[str, Any]:
    return {key: entry.get(key, object) for key in KEYS if entry.has(key)}


def _from_entry(entry: Entry, shared: Mapping[str, Any] = MappingProxyType({})) -> Plan:
    values = {**shared, **_values(entry)}
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
