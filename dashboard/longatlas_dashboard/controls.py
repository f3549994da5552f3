"""Controls whose value stands in the URL.

Streamlit's own binding writes an option's words there; these write its short name, which stays the same when the words
change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import streamlit as st

from longatlas_dashboard import safe
from longatlas_dashboard.theme import DARK


def query(name: str) -> str:
    """A query parameter, "" when it is not in the URL."""
    return str(st.query_params.get(name, ""))


def set_query(**values: Any) -> None:
    """Write query parameters; empty ones are taken out of the URL."""
    for name, value in values.items():
        text = str(value) if value is not None else ""
        if text and st.query_params.get(name) != text:
            st.query_params[name] = text
        elif not text and name in st.query_params:
            del st.query_params[name]


def query_list(name: str) -> list[str]:
    """A query parameter of the form a,b,c."""
    return list(dict.fromkeys(part.strip() for part in query(name).split(",") if part.strip()))


def segments(
    label: str,
    options: Sequence[Any],
    *,
    key: str,
    default: Any = None,
    words: Callable[[Any], str] = str,
    name: Callable[[Any], str] = str,
) -> Any:
    """One of a few options beside each other; without a default none may be chosen. `name` is its text in the URL."""
    start = _asked_for(key, options, name, default)
    required = default is not None
    chosen = st.segmented_control(
        label,
        options,
        default=start,
        required=required,
        format_func=lambda value: ink(words(value)),
        key=key,
        wrap=True,
    )
    return _told(key, chosen, name, default)


def selected(
    label: str,
    options: Sequence[Any],
    *,
    key: str,
    words: Callable[[Any], str] = str,
    name: Callable[[Any], str] = str,
    default: Any = None,
) -> Any:
    """One of many options in a list that opens; the first without a default."""
    first = options[0] if default is None else default
    start = list(options).index(_asked_for(key, options, name, first))
    return _told(key, st.selectbox(label, options, start, format_func=words, key=key), name, first)


def slid(label: str, options: Sequence[Any], *, key: str, default: Any, words: Callable[[Any], str] = str) -> Any:
    """One of ordered options on a slider."""
    start = _asked_for(key, options, str, default)
    # Markup would be read out, and is needed on a dark ground only.
    dark = st.context.theme.type == DARK.name
    shown = (lambda value: ink(words(value))) if dark else words
    return _told(key, st.select_slider(label, options, start, format_func=shown, key=key), str, default)


def several(label: str, options: Sequence[str], *, key: str, default: Sequence[str] = ()) -> list[str]:
    """Any number of a few options; those of `default` where the URL names none."""
    asked = pick(options, query_list(key)) or list(default)
    chosen = st.pills(label, options, selection_mode="multi", default=asked, format_func=ink, key=key, wrap=True)
    set_query(**{key: "" if list(chosen) == list(default) else ",".join(chosen)})
    return list(chosen)


def tabs(labels: Mapping[str, str], *, key: str) -> list[Any]:
    """Tabs by their short names; `open` of each says whether it is the one that is seen."""
    names = list(labels)
    start = _asked_for(key, names, str, names[0])
    made = list(st.tabs(list(labels.values()), default=labels[start], key=key, on_change="rerun"))
    _told(key, next((name for name, tab in zip(names, made, strict=True) if tab.open), None), str, names[0])
    return made


def ink(text: Any) -> str:
    """An option's words in a colour that can be read on every ground: a chosen one else takes the primary colour."""
    return f":gray[{safe.plain(str(text), safe.LINE)}]"


def _asked_for(key: str, options: Sequence[Any], name: Callable[[Any], str], default: Any) -> Any:
    """The option that the URL names, else the default."""
    asked = query(key)
    return next((option for option in options if asked and name(option) == asked), default)


def _told(key: str, chosen: Any, name: Callable[[Any], str], default: Any) -> Any:
    """Write what was chosen into the URL; the default needs no word."""
    found = default if chosen is None else chosen
    set_query(**{key: "" if found is None or found == default else name(found)})
    return found


def pick(options: Sequence[str], wanted: Iterable[str]) -> list[str]:
    """Those of `wanted` that are options."""
    return [name for name in wanted if name in options]
