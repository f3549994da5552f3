"""A store, opened: cells are saved whole, rows come back flat."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DatabaseError

from longatlas.columns import JSON_COLUMNS
from longatlas.errors import LongAtlasError
from longatlas.store.connection import connect, explain, is_sqlite, set_wal, store_name, store_url
from longatlas.store.migrations import migrate
from longatlas.store.record import Record
from longatlas.store.schema import (
    CELLS,
    FLAT,
    META,
    ROWS,
    SAMPLES,
    SCHEMA,
    SCHEMA_VERSION,
    SERIES,
    SETTINGS,
)
from longatlas.store.writing import put

if TYPE_CHECKING:
    import pandas as pd

MANY = 500  # parameters of one query
PRUNED = "pruned"  # when rows were last taken out
ADVISORY_LOCK = 2311_12351  # any number that nothing else in a shared PostgreSQL database locks


class OldStoreError(LongAtlasError):
    """A store of an earlier schema version, opened where it may not be changed."""


class Store:
    """Open a store, creating it where there is none and bringing an older one to this version.

    where      a path or a URL; None = LONGATLAS_STORE, else the user's data folder
    read_only  never create or change anything

    Raises LongAtlasError when it is no store, comes from a newer longatlas, or cannot be written.
    """

    def __init__(self, where: str | None = None, *, read_only: bool = False) -> None:
        self.url = store_url(where)
        self.read_only = read_only
        self.engine = connect(self.url, read_only=read_only)
        try:
            self._prepare()
        except LongAtlasError:
            self.engine.dispose()
            raise

    @property
    def name(self) -> str:
        """The path of a SQLite store, else the URL without its password."""
        return store_name(self.url)

    @property
    def is_sqlite(self) -> bool:
        return is_sqlite(self.url)

    def _prepare(self) -> None:
        with self.reading() as connection:
            names = set(sa.inspect(connection).get_table_names())
            version = self._version(connection) if {"meta", "cells", "rows", "jobs"} <= names else 0
        if version == SCHEMA_VERSION:
            return
        if version > SCHEMA_VERSION:
            raise LongAtlasError(
                f"store '{self.name}' has schema version {version}; this longatlas reads up to {SCHEMA_VERSION}: "
                "install a newer longatlas, or choose another store with --store"
            )
        if version == 0 and names and not self.read_only:
            raise LongAtlasError(
                f"store '{self.name}' is a database of something else (tables: {', '.join(sorted(names)[:5])}); "
                "choose another with --store"
            )
        if self.read_only and version == 0:
            raise LongAtlasError(f"store '{self.name}' holds no longatlas results; choose another with --store")
        if self.read_only:
            raise OldStoreError(
                f"store '{self.name}' has schema version {version}, and it may not be changed here; "
                f"`longatlas results --store` with it, where it can be written, brings it to version {SCHEMA_VERSION}"
            )
        self._create_or_migrate()

    def _create_or_migrate(self) -> None:
        with self.writing() as connection:
            if self.is_sqlite:
                set_wal(connection)
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            META.create(connection, checkfirst=True)
            version = self._version(connection)  # another process may have been quicker
            if version == 0:
                SCHEMA.create_all(connection)
                connection.execute(sa.insert(META).values(key="version", value=str(SCHEMA_VERSION)))
            elif version < SCHEMA_VERSION:
                migrate(connection, version)

    def _version(self, connection: Connection) -> int:
        value = connection.execute(sa.select(META.c.value).where(META.c.key == "version")).scalar()
        return int(value or 0)

    @contextmanager
    def writing(self, *, alone: bool = False) -> Iterator[Connection]:
        """A transaction: all of it or nothing. Raises LongAtlasError where the database refuses.

        alone  no other such transaction runs between its first reading and its end
        """
        try:
            with self.engine.begin() as connection:
                if alone and self.is_sqlite:
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                elif alone:
                    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})")
                yield connection
        except DatabaseError as error:
            raise explain(self.url, error) from None

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection to read with; it never waits for a writer. Raises LongAtlasError."""
        try:
            with self.engine.connect() as connection:
                yield connection
        except DatabaseError as error:
            raise explain(self.url, error) from None

    def beside(self, suffix: str) -> Path:
        """A file or folder that belongs to the store: beside a SQLite file, else in the user's cache folder."""
        if self.is_sqlite:
            path = Path(str(self.url.database))
            return path.with_name(path.name.removesuffix(".sqlite") + suffix)
        from platformdirs import user_cache_path

        digest = hashlib.sha256(self.name.encode()).hexdigest()[:8]
        folder = user_cache_path("longatlas")
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"store-{digest}{suffix}"

    def check_writable(self) -> None:
        """Raise LongAtlasError now rather than after the first measurement."""
        self.remember("checked", str(time.time()))

    # Facts

    def fact(self, key: str) -> str | None:
        """What was remembered under a key."""
        with self.reading() as connection:
            return connection.execute(sa.select(META.c.value).where(META.c.key == key)).scalar()

    def remember(self, key: str, value: str) -> None:
        """Keep a text under a key, in place of an earlier one."""
        with self.writing() as connection:
            connection.execute(sa.delete(META).where(META.c.key == key))
            connection.execute(sa.insert(META).values(key=key, value=value))

    # Cells and rows

    def finished(self, keys: Iterable[str], *, timeout: float = 0.0) -> dict[str, str]:
        """Key -> status of those cells that are finished; a `timeout` after less than `timeout` seconds is not."""
        wanted = list(keys)
        found: dict[str, str] = {}
        given_up = (CELLS.c.status != "timeout") | (CELLS.c.seconds >= timeout)
        with self.reading() as connection:
            for part in _parts(wanted):
                query = sa.select(CELLS.c.key, CELLS.c.status).where(CELLS.c.key.in_(part), given_up)
                found |= {row.key: row.status for row in connection.execute(query)}
        return found

    def save(self, record: Record) -> None:
        """Store a finished cell with its rows, in one transaction; what an earlier run found is replaced."""
        with self.writing() as connection:
            put(connection, [record])

    def rows(
        self,
        *,
        keys: Sequence[str] | None = None,
        methods: Sequence[str] = (),
        measure: str = "",
        phase: str = "",
        latest: bool = False,
        samples: bool = False,
    ) -> pd.DataFrame:
        """Rows as a frame, oldest first, one line per measured value.

        keys     only rows of these cells
        methods  only these specs; a bare name matches every spec of that method
        latest   only the newest cell of each measurement: a repeat replaces what it repeats, failed or not
        samples  include the raw samples
        """
        import pandas as pd

        query = flat_rows(samples=samples).order_by(ROWS.c.id)
        if methods:
            query = query.where(sa.or_(*(matches(name) for name in methods)))
        if measure:
            query = query.where(SERIES.c.measure == measure)
        if phase:
            query = query.where(SERIES.c.phase == phase)
        if latest:
            query = query.where(CELLS.c.latest == 1)
        if keys is None:
            return self.frame(query)
        parts = [self.frame(query.where(CELLS.c.key.in_(part))) for part in _parts(keys) or [[]]]
        return pd.concat(parts).sort_values("id", kind="stable").reset_index(drop=True)

    def frame(self, query: sa.Select[Any]) -> pd.DataFrame:
        """A query's answer as a frame, JSON columns read."""
        import pandas as pd

        with self.reading() as connection:
            frame = pd.read_sql(query, connection)
        for name in set(JSON_COLUMNS) & set(frame.columns):
            known = {text: json.loads(text) for text in frame[name].unique() if isinstance(text, str)}
            frame[name] = frame[name].map(lambda text, known=known: known.get(text, []))
        return frame

    def state(self) -> tuple[int, str]:
        """Another value after any rows were stored or taken out; cheap enough to be asked for before every view.

        Raises LongAtlasError where the store has got another schema version since it was opened.
        """
        last = sa.select(sa.func.max(ROWS.c.id)).scalar_subquery()
        pruned = sa.select(META.c.value).where(META.c.key == PRUNED).scalar_subquery()
        version = sa.select(META.c.value).where(META.c.key == "version").scalar_subquery()
        with self.reading() as connection:
            found = connection.execute(sa.select(last, pruned, version)).one()
        if found[2] != str(SCHEMA_VERSION):
            raise LongAtlasError(
                f"store '{self.name}' has schema version {found[2]} now, and this longatlas reads {SCHEMA_VERSION}: "
                "another one has changed it; end this program and start it with the newest longatlas that is installed"
            )
        return int(found[0] or 0), str(found[1] or "")


def open_to_read(where: str | None = None) -> Store:
    """Open a store for reading only; one of an earlier version is brought to this one first."""
    try:
        return Store(where, read_only=True)
    except OldStoreError:
        Store(where).engine.dispose()
        return Store(where, read_only=True)


def flat_rows(*, samples: bool = False, without: Sequence[str] = ()) -> sa.Select[Any]:
    """Rows with all that belongs to them, as flat columns, some of which can be left out."""
    left_out = {*without} if samples else {"samples", *without}
    columns: list[Any] = [column.label(name) for name, column in FLAT.items() if name not in left_out]
    tables = ROWS.join(CELLS, ROWS.c.cell == CELLS.c.id).join(SERIES, ROWS.c.series == SERIES.c.id)
    tables = tables.join(SETTINGS, SERIES.c.setting == SETTINGS.c.id)
    if samples:
        tables = tables.outerjoin(SAMPLES, SAMPLES.c.row == ROWS.c.id)
    return sa.select(*columns).select_from(tables)


def matches(method: str) -> sa.ColumnElement[bool]:
    """Series of a spec; a bare name matches every spec of that method."""
    exact = SERIES.c.method == method
    if ":" in method or "+" in method:
        return exact
    return exact | SERIES.c.method.startswith(f"{method}:", autoescape=True)


def _parts(keys: Sequence[str]) -> list[Sequence[str]]:
    return [keys[start : start + MANY] for start in range(0, len(keys), MANY)]
