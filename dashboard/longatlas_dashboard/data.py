"""What pages read: the store that the launcher named, answers of its queries, names in the catalog's order."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st
from sqlalchemy.exc import SQLAlchemyError

from longatlas import catalog
from longatlas.errors import LongAtlasError
from longatlas.harness.demo import METHODS
from longatlas.store import Store, queries, store_url
from longatlas.store.connection import is_sqlite
from longatlas_dashboard import safe, settings

# What may go wrong with a store while it is read or written.
STORE_ERRORS = (LongAtlasError, SQLAlchemyError)


def methods_order() -> list[str]:
    """What binds colours to methods: those of the demo first, so that its main curves differ, then all others."""
    shown = [spec.partition(":")[0] for spec in METHODS]
    return list(dict.fromkeys([*shown, *catalog.load_catalog().methods]))


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


@st.cache_resource(show_spinner=False, max_entries=8, ttl=10)
def _sources(name: str, file: tuple[int, ...], state: tuple[int, str]) -> frozenset[str]:
    return queries.current_sources(store())


def sources() -> frozenset[str]:
    """Today's digests of the code of all that is stored; looked at anew after seconds, for code may be edited."""
    here = store()
    return _sources(here.name, _file(), here.state())


def measured() -> pd.DataFrame:
    """Specs with a cell, and how many cells. Columns: method, cells."""
    found: pd.DataFrame = ask("methods")
    return found


def error_text(error: Exception) -> str:
    """What went wrong and the remedy, without a traceback."""
    if isinstance(error, LongAtlasError):
        return str(error)
    if isinstance(error, SQLAlchemyError):
        return f"the store cannot be used now: {getattr(error, 'orig', error)}; try again in a moment"
    return f"this page failed: {type(error).__name__}: {error}; the server's log has the details"


def setting_text(condition: Any) -> str:
    """A setting in words: machine, device, dtype, threads, level and case."""
    case = condition["case"]
    shape = ", ".join(f"{name} {value}" for name, value in case.items() if value != "" and "digest" not in name)
    threads = int(condition["threads"])
    words = [str(condition["machine"]), f"{condition['device']} {condition['dtype']}"]
    level = [f"level {condition['level']}"] if condition["level"] not in ("", "decoder") else []
    return " · ".join([*words, f"{threads} thread{'s' * (threads != 1)}", *level, shape])


def run_text(run: Any) -> str:
    """A run (longatlas.store.queries.runs) in words: when, how much, from where."""
    when = datetime.fromtimestamp(run["start"], UTC)
    source = f"from {run['origin']}" if run["origin"] else "measured here"
    return safe.cut(f"{when:%Y-%m-%d %H:%M} UTC, {run['cells']} cells, {source}")


def names_with_rows(frame: pd.DataFrame) -> list[str]:
    """Specs in the column `method`, in the catalog's order."""
    order = {name: place for place, name in enumerate(methods_order())}
    specs = sorted(set(frame["method"]))
    return sorted(specs, key=lambda spec: order.get(re.split(r"[:+]", spec)[0], len(order)))
