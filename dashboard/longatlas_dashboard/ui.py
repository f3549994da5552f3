"""What pages share: the store and its rows, links, safe text, headers, empty states, charts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
import streamlit as st
from sqlalchemy.exc import SQLAlchemyError

from longatlas import catalog
from longatlas.errors import LongAtlasError
from longatlas.harness import analysis
from longatlas.harness.demo import METHODS
from longatlas.store import Store, queries, store_url
from longatlas.store.connection import is_sqlite
from longatlas_dashboard import settings
from longatlas_dashboard.theme import LIGHT, THEMES, Theme

# What may go wrong with a store while it is read or written.
STORE_ERRORS = (LongAtlasError, SQLAlchemyError)

# Not called `pages`: Streamlit runs the scripts of such a folder by itself, before the token is asked for.
PAGES = Path(__file__).with_name("views")
# ASCII punctuation means something in Markdown; a backslash before it makes it a plain character.
_PUNCTUATION = re.compile(r"([!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~])")
# What Markdown makes a link of even where it is escaped; an invisible joiner breaks it up.
_AUTOLINK = re.compile(r"(?i)\b(https?|www|ftp|mailto)(?=[:.])|(?=@)")
_JOINER = "\u2060"
# Longer text (a URL, a plugin's title) is cut: a page is read, not filled.
LINE, PARAGRAPH = 160, 1200
# Characters that turn the direction of all that follows, words of ours too.
_TURNS = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)])


def cut(text: str, most: int = LINE) -> str:
    """`text` on one line of at most `most` characters, in the direction of its letters."""
    one_line = " ".join(str(text).translate(_TURNS).split())
    return one_line if len(one_line) <= most else f"{one_line[: most - 1]}…"


def plain(text: str, most: int = PARAGRAPH) -> str:
    """Text for a Markdown place (titles, labels, captions) in which nothing is markup, link or image."""
    one_line = cut(text, most)
    broken = _AUTOLINK.sub(lambda match: f"{match[0]}{_JOINER}", one_line)
    return _PUNCTUATION.sub(r"\\\1", broken)


def web_address(url: str) -> str:
    """`url` when it is an http(s) address, else ""."""
    return url if re.match(r"https?://[^\s<>\"]+$", url) else ""


def theme() -> Theme:
    """The theme the viewer sees."""
    return THEMES.get(str(st.context.theme.type), LIGHT)


def methods_order() -> list[str]:
    """What binds colours to methods: those of the demo first, so that its main curves differ, then all others."""
    shown = [spec.partition(":")[0] for spec in METHODS]
    return list(dict.fromkeys([*shown, *catalog.load_catalog().methods]))


# The store


@st.cache_resource(show_spinner=False, max_entries=2)
def _open(where: str, read_only: bool, file: tuple[int, ...]) -> Store:
    return Store(where or None, read_only=read_only)


def _file() -> tuple[int, ...]:
    """Which file the store is now; () for none. Another one in its place has other numbers."""
    url = store_url(settings.read().store)
    with suppress(OSError):
        if is_sqlite(url):
            found = Path(str(url.database)).stat()
            return (found.st_dev, found.st_ino)
    return ()


def store() -> Store:
    """The store the launcher named, opened anew when its file is another one. Raises LongAtlasError."""
    given = settings.read()
    file = _file()
    if is_sqlite(store_url(given.store)) and not file:
        raise LongAtlasError(
            f"store '{store_url(given.store).database}' is gone; it was there when the dashboard was started: put it "
            "back, or start the dashboard again, which makes an empty one"
        )
    return _open(given.store, given.read_only, file)


@st.cache_resource(show_spinner=False, max_entries=64)
def _asked(name: str, file: tuple[int, ...], state: tuple[int, str], question: str, arguments: tuple[Any, ...]) -> Any:
    return getattr(queries, question)(store(), *arguments)


def ask(question: str, *arguments: Any) -> Any:
    """An answer of longatlas.store.queries, asked again when the store has new rows. Not to be changed in place."""
    here = store()
    return _asked(here.name, _file(), here.state(), question, arguments)


def measured() -> pd.DataFrame:
    """Specs with a cell, and how many cells. Columns: method, cells."""
    found: pd.DataFrame = ask("methods")
    return found


def rows_under(
    methods: Iterable[str], measures: Iterable[str], setting: Any, phase: str = "", *, key: str = ""
) -> pd.DataFrame:
    """The newest rows of methods under one setting, a row of settings(), with one value for each method and T.

    key  where a method was measured in several implementations, the reader may choose one, by this name in the URL
    """
    chosen = (tuple(methods), tuple(measures), int(setting["setting"]), str(setting["level"]))
    found: pd.DataFrame = ask("rows_of", *chosen)
    if phase:
        found = found[found["phase"] == phase]
    return analysis.one_value_each(found, _variant_choice(found, key) if key else "")


def _variant_choice(rows: pd.DataFrame, key: str) -> str:
    several = [] if rows.empty else analysis.variants(rows)
    if not several:
        return ""
    words = "Implementation, of methods that were measured in several"
    return segments(words, several, key=key, name=str) or ""


# Pages and links


def link(page: str, label: str, *, icon: str | None = None, help: str | None = None, **query: Any) -> None:
    """A link to a page (its file name without .py) with query parameters."""
    parameters = {key: str(value) for key, value in query.items() if value not in ("", None)}
    st.page_link(PAGES / f"{page}.py", label=label, icon=icon, help=help, query_params=parameters or None)


def go(page: str, **query: Any) -> None:
    """Leave for another page."""
    st.switch_page(PAGES / f"{page}.py", query_params={key: str(value) for key, value in query.items()})


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


# Controls whose value stands in the URL. Streamlit's own binding writes an option's words there; these write its short
# name, which stays the same when the words change.


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
        label, options, default=start, required=required, format_func=lambda value: ink(words(value)), key=key
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
    return _told(
        key, st.select_slider(label, options, start, format_func=lambda v: ink(words(v)), key=key), str, default
    )


def several(label: str, options: Sequence[str], *, key: str, default: Sequence[str] = ()) -> list[str]:
    """Any number of a few options; those of `default` where the URL names none."""
    asked = pick(options, query_list(key)) or list(default)
    chosen = st.pills(label, options, selection_mode="multi", default=asked, format_func=ink, key=key)
    set_query(**{key: "" if list(chosen) == list(default) else ",".join(chosen)})
    return list(chosen)


def ink(text: Any) -> str:
    """An option's words in a colour that can be read on every ground: a chosen one else takes the primary colour."""
    return f":gray[{plain(str(text), LINE)}]"


def _asked_for(key: str, options: Sequence[Any], name: Callable[[Any], str], default: Any) -> Any:
    """The option that the URL names, else the default."""
    asked = query(key)
    return next((option for option in options if asked and name(option) == asked), default)


def _told(key: str, chosen: Any, name: Callable[[Any], str], default: Any) -> Any:
    """Write what was chosen into the URL; the default needs no word."""
    found = default if chosen is None else chosen
    set_query(**{key: "" if found is None or found == default else name(found)})
    return found


# Pieces of pages


def header(title: str, words: str = "") -> None:
    st.title(title, anchor=False)
    if words:
        st.markdown(words)


def section(title: str, words: str = "") -> None:
    st.header(title, anchor=False)
    if words:
        st.caption(words)


def empty(words: str, *, command: str = "", page: str = "", label: str = "", **query: Any) -> None:
    """What is missing, and the one command or link that mends it."""
    with st.container(border=True):
        st.markdown(words)
        if page:
            link(page, label, icon=":material/arrow_forward:", **query)
        if command:
            st.code(command, language=None)


def chart(made: alt.LayerChart, *, alt_text: str, key: str, **options: Any) -> Any:
    """Draw a chart with its text for those who cannot see it."""
    return st.altair_chart(made, theme=None, width="stretch", alt=alt_text, key=key, **options)


def table(frame: pd.DataFrame, *, key: str | None = None, **options: Any) -> Any:
    return st.dataframe(frame, hide_index=True, width="stretch", key=key, **options)


def guarded(page: Callable[[], None]) -> None:
    """Run a page; what goes wrong is a message with its remedy, never a traceback."""
    try:
        page()
    except Exception as error:
        if not isinstance(error, STORE_ERRORS):
            _log_exception()
        st.error(plain(error_text(error)), icon=":material/error:")


def error_text(error: Exception) -> str:
    """What went wrong and the remedy, without a traceback."""
    if isinstance(error, LongAtlasError):
        return str(error)
    if isinstance(error, SQLAlchemyError):
        return f"the store cannot be used now: {getattr(error, 'orig', error)}; try again in a moment"
    return f"this page failed: {type(error).__name__}: {error}; the server's log has the details"


def _log_exception() -> None:
    import logging

    logging.getLogger("longatlas_dashboard").exception("a page failed")


def setting_choice(
    methods: Iterable[str], measures: Iterable[str], *, key: str, phase: str = "", label: str = "Measured on"
) -> pd.Series | None:
    """Let the reader choose the machine, case and level whose rows are shown, newest first; None without rows.

    At first it is the newest of those that have most of the methods.
    """
    found = ask("settings", tuple(methods), tuple(measures), phase)
    if found.empty:
        return None
    if len(found) == 1:
        return found.iloc[0]
    place = selected(
        label,
        range(len(found)),
        key=key,
        words=lambda i: setting_text(found.iloc[i]),
        name=lambda i: f"{found.iloc[i]['setting']}{found.iloc[i]['level'][:1]}",
        default=int(found["methods"].to_numpy().argmax()),
    )
    return found.iloc[place]


def setting_text(condition: Any) -> str:
    """A setting in words: machine, device, dtype, threads, level and case."""
    case = condition["case"]
    shape = ", ".join(f"{name} {value}" for name, value in case.items() if value != "" and "digest" not in name)
    threads = int(condition["threads"])
    words = [str(condition["machine"]), f"{condition['device']} {condition['dtype']}"]
    level = [f"level {condition['level']}"] if condition["level"] not in ("", "decoder") else []
    return " · ".join([*words, f"{threads} thread{'s' * (threads != 1)}", *level, shape])


def names_with_rows(frame: pd.DataFrame) -> list[str]:
    """Specs in the column `method`, in the catalog's order."""
    order = {name: place for place, name in enumerate(methods_order())}
    specs = sorted(set(frame["method"]))
    return sorted(specs, key=lambda spec: order.get(re.split(r"[:+]", spec)[0], len(order)))


def texts(values: Iterable[str], conjunction: str = ", ") -> str:
    """Names as inline code, joined; on one line, for a blank line would end the code and let Markdown in."""
    return conjunction.join(f"`{cut(str(value).replace('`', '')) or ' '}`" for value in values)


def whole_number(text: str) -> int | None:
    """The number a URL parameter or a typed text stands for, in ASCII digits; None for anything else."""
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,15}", text) else None


def pick(options: Sequence[str], wanted: Iterable[str]) -> list[str]:
    """Those of `wanted` that are options."""
    return [name for name in wanted if name in options]
