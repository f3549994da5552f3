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

# Session's name of what a control last wrote into the address.
_SEEN = "in the address: "
_FIRST = "at first: "


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
    start = _start(key, _asked_for(key, options, name, default))
    required = default is not None
    chosen = st.segmented_control(
        label, options, default=start, required=required, format_func=lambda v: ink(words(v)), key=key, wrap=True
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
    start = _start(key, _asked_for(key, options, name, first))
    place = 0 if start is None else list(options).index(start)
    return _told(key, st.selectbox(label, options, place, format_func=words, key=key), name, first)


def slid(label: str, options: Sequence[Any], *, key: str, default: Any, words: Callable[[Any], str] = str) -> Any:
    """One of ordered options on a slider."""
    start = _start(key, _asked_for(key, options, str, default))
    # Markup would be read out, and is needed on a dark ground only.
    dark = st.context.theme.type == DARK.name
    shown = (lambda value: ink(words(value))) if dark else words
    return _told(key, st.select_slider(label, options, start, format_func=shown, key=key), str, default)


def several(label: str, options: Sequence[str], *, key: str, default: Sequence[str] = ()) -> list[str]:
    """Any number of a few options; those of `default` where the URL names none."""
    start = _start(key, pick(options, query_list(key)) or list(default))
    chosen = st.pills(label, options, selection_mode="multi", default=start, format_func=ink, key=key, wrap=True)
    _write(key, "" if list(chosen) == list(default) else ",".join(chosen))
    return list(chosen)


def many(label: str, options: Sequence[str], *, key: str, hint: str) -> list[str]:
    """Any number of many options, in a list that opens."""
    start = _start(key, pick(options, query_list(key)))
    chosen = st.multiselect(label, options, default=start, key=key, placeholder=hint)
    _write(key, ",".join(chosen))
    return list(chosen)


def page_number(label: str, pages: int, *, key: str) -> int:
    """Which of some pages is shown, from 0."""
    asked = safe.whole_number(query(key)) or 1
    start = _start(key, min(max(asked, 1), pages))
    chosen = int(st.number_input(label, 1, pages, **({} if start is None else {"value": start}), key=key))
    _write(key, "" if chosen == 1 else str(chosen))
    return chosen - 1


def tabs(labels: Mapping[str, str], *, key: str) -> list[Any]:
    """Tabs by their short names; `open` of each says whether it is the one that is seen."""
    names = list(labels)
    asked = _asked_for(key, names, str, names[0])
    start = _start(key, labels[asked])
    # Tabs with another default are other tabs to Streamlit, and forget which is open.
    first = start or st.session_state.get(_FIRST + key)
    st.session_state[_FIRST + key] = first
    made = list(st.tabs(list(labels.values()), default=first, key=key, on_change="rerun"))
    _told(key, next((name for name, tab in zip(names, made, strict=True) if tab.open), None), str, names[0])
    return made


def ink(text: Any) -> str:
    """An option's words in a colour that can be read on every ground: a chosen one else takes the primary colour."""
    return f":gray[{safe.plain(str(text), safe.LINE)}]"


def _asked_for(key: str, options: Sequence[Any], name: Callable[[Any], str], default: Any) -> Any:
    """The option that the URL names, else the default."""
    asked = query(key)
    return next((option for option in options if asked and name(option) == asked), default)


def _start(key: str, asked: Any) -> Any:
    """What a control begins with: None where it has a value already.

    Where the address was changed by another hand (the browser's Back, a link), its value replaces the control's.
    """
    if key not in st.session_state:
        return asked
    if query(key) != st.session_state.get(_SEEN + key, query(key)):
        st.session_state[key] = asked
    return None


def _told(key: str, chosen: Any, name: Callable[[Any], str], default: Any) -> Any:
    """Write what was chosen into the URL; the default needs no word."""
    found = default if chosen is None else chosen
    _write(key, "" if found is None or found == default else name(found))
    return found


def _write(key: str, text: str) -> None:
    set_query(**{key: text})
    st.session_state[_SEEN + key] = text


def pick(options: Sequence[str], wanted: Iterable[str]) -> list[str]:
    """Those of `wanted` that are options."""
    return [name for name in wanted if name in options]
