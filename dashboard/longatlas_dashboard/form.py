"""The Run page's form: one control per key of a Plan, each with a place under it for its error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import streamlit as st

from longatlas import catalog
from longatlas.combination import Combination, Part, parse_spec
from longatlas.errors import LongAtlasError
from longatlas.harness.plan import KEYS, Plan, PlanError
from longatlas.harness.plan_key import Key
from longatlas.rules import Rule
from longatlas_dashboard import controls, marks, plan_url, safe

LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_PREFIX = "run_"


class Form:
    """Draws fields, collects their values by the plan's keys, and shows an error at its field."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.places: dict[str, Any] = {}

    @contextmanager
    def field(self, key: str) -> Iterator[str]:
        """A field of the form; what is under it shows its error."""
        yield _PREFIX + key
        self.places[key] = st.empty()

    def show(self, error: PlanError) -> None:
        place = self.places.get(error.key, st)
        text = error.text.removeprefix("has an error: ")
        words = text if text != error.text else f"{error.key} {text}"
        place.error(safe.plain(words), icon=":material/error:")

    def plan(self) -> Plan | None:
        """The plan, or None after its error has been shown at the field."""
        try:
            return Plan(**self.values)
        except PlanError as error:
            self.show(error)
            return None


def draw(start: Mapping[str, Any]) -> Form:
    """Draw the whole form, a field for each key of a plan; `start` holds the first values by key, from the URL."""
    form = Form()
    defaults = {name: key.default for name, key in KEYS.items()} | dict(start)
    _methods(form, defaults["methods"])
    for column, section in zip(st.columns(2, gap="large"), ("shape", "quality"), strict=True):
        with column:
            for key in _keys(section):
                _field(form, key, defaults[key.name])
    with st.expander("Case, machine and limits"):
        columns = st.columns(4)
        for place, key in enumerate(_keys("details")):
            with columns[place % 4]:
                _field(form, key, defaults[key.name])
    return form


def _keys(section: str) -> list[Key]:
    return [key for key in KEYS.values() if key.section == section]


def _field(form: Form, key: Key, start: Any) -> None:
    """The control that a key's kind and choices ask for; its bounds are left to the plan's check."""
    with form.field(key.name) as name:
        if key.many:
            form.values[key.name] = (_numbers if key.kind is int else _many)(key, start, name)
        elif key.choices and key.section != "details":
            form.values[key.name] = _one(key, start, name)
        else:
            more = {"placeholder": key.placeholder} if key.kind is str and not key.choices else {}
            form.values[key.name] = _control(Rule(key.kind, choices=key.offered), key.shown, start, name, **more)


def _methods(form: Form, asked: Sequence[str]) -> None:
    ready = [m.name for m in catalog.load_catalog().methods.values() if catalog.method_status(m) == "ready"]
    start = [spec for spec in asked if spec]
    with form.field("methods") as key:
        chosen = st.multiselect(
            "Methods",
            list(dict.fromkeys([*ready, *start])),
            default=start,
            key=key,
            accept_new_options=True,
            placeholder="choose, or type a combination such as yarn+sliding_window",
        )
    form.values["methods"] = tuple(_with_options(spec, form) for spec in chosen)


def _with_options(spec: str, form: Form) -> str:
    """The spec with the values of its option controls; one that cannot be read is left to the plan's check."""
    try:
        combination = parse_spec(spec)
    except LongAtlasError:
        return spec
    values = [value for part in combination.parts for value in part.options.values()]
    if not values or any(isinstance(value, int | float) and abs(value) > plan_url.LARGEST for value in values):
        return spec
    with st.expander(safe.plain(f"Options of {spec}")):
        parts = tuple(_part(part, spec) for part in combination.parts)
    return Combination(parts).spec


def _part(part: Part, spec: str) -> Part:
    columns = st.columns(3)
    values = {}
    for place, option in enumerate(part.method.options):
        label = f"{option.name}, {option.unit}" if option.unit else option.name
        about = safe.plain(f"{option.help}; {option.rule.words}")
        name = f"{_PREFIX}o_{spec}_{part.method.name}_{option.name}"
        with columns[place % 3]:
            values[option.name] = _control(option.rule, safe.plain(label), part.options[option.name], name, help=about)
    return Part(part.method, values)


def _control(rule: Rule, label: str, value: Any, name: str, **more: Any) -> Any:
    """The control that a rule asks for."""
    if rule.kind is bool:
        return st.checkbox(label, value=value, key=name, **more)
    if rule.choices:
        shown = tuple(dict.fromkeys([*rule.names, value]))
        return st.selectbox(label, shown, index=shown.index(value), key=name, **more)
    if rule.kind is str:
        return (st.text_input(label, value, key=name, **more) or "").strip()
    low, high = (None if bound is None else rule.kind(bound) for bound in (rule.min, rule.max))
    return st.number_input(label, low, high, value, key=name, **more)


def _many(key: Key, asked: Sequence[str], name: str) -> tuple[str, ...]:
    start = [value for value in asked if value in key.offered]
    chosen = st.pills(
        key.shown, key.offered, selection_mode="multi", default=start, format_func=controls.ink, key=name, wrap=True
    )
    return tuple(chosen or ())


def _one(key: Key, asked: str, name: str) -> Any:
    start = asked if asked in key.offered else key.offered[0]
    return st.segmented_control(
        key.shown, key.offered, default=start, required=True, format_func=controls.ink, key=name, wrap=True
    )


def _numbers(key: Key, asked: Sequence[Any], name: str) -> tuple[Any, ...]:
    """Whole numbers; what is no number is left to the plan's check."""
    start = [str(number) for number in asked]
    chosen = st.multiselect(
        key.shown,
        list(dict.fromkeys([*map(str, LENGTHS), *start])),
        default=start,
        key=name,
        accept_new_options=True,
        format_func=_length_text,
    )
    numbers = [(text, safe.whole_number(text)) for text in chosen]
    return tuple(text if number is None else number for text, number in numbers)


def _length_text(text: str) -> str:
    number = safe.whole_number(text)
    return safe.cut(text, 40) if number is None else marks.length_text(number)
