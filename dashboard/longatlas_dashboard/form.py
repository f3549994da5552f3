"""The Run page's form: one control per key of a Plan, each with a place under it for its error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import streamlit as st

from longatlas import catalog
from longatlas.cards import Option
from longatlas.combination import Combination, Part, parse_spec
from longatlas.errors import LongAtlasError
from longatlas.harness.plan import KEYS, MEASURES, Plan, PlanError
from longatlas.words import DEVICES, DTYPES, LEVELS, PHASES, POLICIES, PRESETS
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
    """Draw the whole form; `start` holds the first values by key, from the URL."""
    form = Form()
    defaults = {key: field.default for key, field in KEYS.items()} | dict(start)
    _methods(form, defaults)
    left, right = st.columns(2, gap="large")
    with left:
        _many(form, "measure", "Measure", MEASURES, defaults)
        _many(form, "phases", "Phases (time and memory)", PHASES, defaults)
        _many(form, "levels", "Levels (time and memory)", LEVELS, defaults)
        _lengths(form, defaults)
    with right:
        tasks = tuple(catalog.load_catalog().tasks)
        _many(form, "tasks", "Tasks (quality)", tasks, defaults)
        _one(form, "preset", "Size of the quality tasks", PRESETS, defaults)
        _text(form, "corpus", "Corpus: a file or folder of text", defaults, "empty: Python's standard library")
    with st.expander("Case, machine and limits"):
        _details(form, defaults)
    return form


def _methods(form: Form, defaults: Mapping[str, Any]) -> None:
    ready = [m.name for m in catalog.load_catalog().methods.values() if catalog.method_status(m) == "ready"]
    start = [spec for spec in defaults["methods"] if spec]
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
    values = {
        option.name: _control(
            option, part.options[option.name], f"{_PREFIX}o_{spec}_{part.method.name}", columns[i % 3]
        )
        for i, option in enumerate(part.method.options)
    }
    return Part(part.method, values)


def _control(option: Option, value: Any, prefix: str, place: Any) -> Any:
    """The control that an option card asks for; its bounds are the card's."""
    key = f"{prefix}_{option.name}"
    label = f"{option.name}, {option.unit}" if option.unit else option.name
    about = safe.plain(f"{option.help}; {option.rule()}")
    if isinstance(option.default, bool):
        return place.checkbox(safe.plain(label), value=value, help=about, key=key)
    if option.choices:
        index = option.choices.index(value)
        return place.selectbox(safe.plain(label), option.choices, index=index, help=about, key=key)
    if isinstance(option.default, str):
        return place.text_input(safe.plain(label), value=value, help=about, key=key)
    kind = type(option.default)
    low, high = (None if bound is None else kind(bound) for bound in (option.min, option.max))
    return place.number_input(safe.plain(label), low, high, value, help=about, key=key)


def _many(form: Form, name: str, label: str, options: tuple[str, ...], defaults: Mapping[str, Any]) -> None:
    with form.field(name) as key:
        start = [value for value in defaults[name] if value in options]
        chosen = st.pills(
            label, options, selection_mode="multi", default=start, format_func=controls.ink, key=key, wrap=True
        )
    form.values[name] = tuple(chosen or ())


def _one(form: Form, name: str, label: str, options: tuple[str, ...], defaults: Mapping[str, Any]) -> None:
    with form.field(name) as key:
        start = defaults[name] if defaults[name] in options else options[0]
        form.values[name] = st.segmented_control(
            label, options, default=start, required=True, format_func=controls.ink, key=key, wrap=True
        )


def _lengths(form: Form, defaults: Mapping[str, Any]) -> None:
    start = [str(length) for length in defaults["lengths"]]
    with form.field("lengths") as key:
        chosen = st.multiselect(
            "T, tokens (time and memory)",
            list(dict.fromkeys([*map(str, LENGTHS), *start])),
            default=start,
            key=key,
            accept_new_options=True,
            format_func=_length_text,
        )
    numbers = [(text, safe.whole_number(text)) for text in chosen]
    form.values["lengths"] = tuple(text if number is None else number for text, number in numbers)


def _length_text(text: str) -> str:
    number = safe.whole_number(text)
    return safe.cut(text, 40) if number is None else marks.length_text(number)


def _text(form: Form, name: str, label: str, defaults: Mapping[str, Any], hint: str) -> None:
    with form.field(name) as key:
        form.values[name] = (st.text_input(label, defaults[name], key=key, placeholder=hint) or "").strip()


def _details(form: Form, defaults: Mapping[str, Any]) -> None:
    columns = st.columns(4)
    choices = {
        "device": DEVICES,
        "dtype": DTYPES,
        "impl": ("auto", *sorted({impl for m in catalog.load_catalog().methods.values() for impl in m.impls})),
        "policy": ("auto", *POLICIES),
    }
    for place, (name, options) in enumerate(choices.items()):
        with columns[place], form.field(name) as key:
            shown = tuple(dict.fromkeys([*options, defaults[name]]))
            index = shown.index(defaults[name])
            form.values[name] = st.selectbox(name, shown, index=index, key=key)
    numbers = ("batch", "layers", "heads", "head_size", "threads", "seed", "budget", "timeout", "memory_gib")
    labels = {
        "threads": "threads (0: all cores)",
        "budget": "budget, s for one timing",
        "timeout": "timeout, s for one cell",
        "memory_gib": "memory_gib, GiB (0: 80%)",
    }
    for place, name in enumerate(numbers):
        with columns[place % 4], form.field(name) as key:
            form.values[name] = st.number_input(labels.get(name, name), value=defaults[name], key=key)
