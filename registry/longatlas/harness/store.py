"""The store: finished cells, their rows, and the queue of jobs; SQLite, or another database by URL."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, NoSuchModuleError, OperationalError

from longatlas.errors import LongAtlasError
from longatlas.harness.cells import Cell, environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

SCHEMA_VERSION = 1

_schema = sa.MetaData()

META = sa.Table("meta", _schema, sa.Column("key", sa.String, primary_key=True), sa.Column("value", sa.String))

CELLS = sa.Table(
    "cells",
    _schema,
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("finished", sa.Float, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
)

ROWS = sa.Table(
    "rows",
    _schema,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("cell", sa.String, index=True, nullable=False),
    sa.Column("method", sa.String, index=True, nullable=False),
    sa.Column("options", sa.String, nullable=False),
    sa.Column("impl", sa.String, nullable=False),
    sa.Column("measure", sa.String, nullable=False),
    sa.Column("phase", sa.String, nullable=False),
    sa.Column("T", sa.Integer, nullable=False),
    sa.Column("metric", sa.String, nullable=False),
    sa.Column("value", sa.Float),
    sa.Column("unit", sa.String, nullable=False),
    sa.Column("low", sa.Float),
    sa.Column("high", sa.Float),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("device", sa.String, nullable=False),
    sa.Column("dtype", sa.String, nullable=False),
    sa.Column("case", sa.String, nullable=False),
    sa.Column("seed", sa.Integer, nullable=False),
    sa.Column("threads", sa.Integer, nullable=False),
    sa.Column("n", sa.Integer, nullable=False),
    sa.Column("samples", sa.String, nullable=False),
    sa.Column("machine", sa.String, nullable=False),
    sa.Column("versions", sa.String, nullable=False),
    sa.Column("source", sa.String, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
)

JOBS = sa.Table(
    "jobs",
    _schema,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("plan", sa.String, nullable=False),
    sa.Column("plan_hash", sa.String, nullable=False),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("done", sa.Integer, nullable=False, default=0),
    sa.Column("total", sa.Integer, nullable=False, default=0),
    sa.Column("current", sa.String, nullable=False, default=""),
    sa.Column("error", sa.String, nullable=False, default=""),
    sa.Column("cancel", sa.Integer, nullable=False, default=0),
    sa.Column("pid", sa.Integer),
    sa.Column("pid_started", sa.Float),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("started", sa.Float),
    sa.Column("finished", sa.Float),
)

# Text columns that hold JSON.
_JSON = ("options", "case", "samples", "versions")


def default_store_path() -> Path:
    """The store in the user's data folder."""
    from platformdirs import user_data_path

    return user_data_path("longatlas") / "store.sqlite"


def store_url(where: str | None = None) -> URL:
    """A URL from `where`, else from LONGATLAS_STORE, else the default. A path means SQLite."""
    where = where or os.environ.get("LONGATLAS_STORE") or str(default_store_path())
    if "://" in where:
        try:
            return make_url(where)
        except (ArgumentError, ValueError):
            raise LongAtlasError(f"store '{where}' is no URL that can be read; give a path or a database URL") from None
    return URL.create("sqlite", database=str(Path(where).expanduser().absolute()))


class Store:
    """Open a store, creating it where there is none.

    where      a path or a URL; None = LONGATLAS_STORE, else the user's data folder
    read_only  never create or change anything

    Raises LongAtlasError when it is no SQLite file, comes from a newer longatlas, or cannot be written.
    """

    def __init__(self, where: str | None = None, *, read_only: bool = False) -> None:
        self.url = store_url(where)
        self.read_only = read_only
        self.engine = self._connect()
        try:
            self._prepare()
        except LongAtlasError:
            self.engine.dispose()
            raise

    @property
    def name(self) -> str:
        """The path of a SQLite store, else the URL without its password."""
        return str(self.url.database) if self.is_sqlite else self.url.render_as_string(hide_password=True)

    @property
    def is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    def _connect(self) -> Engine:
        if not self.is_sqlite:
            return self._make_engine(pool_pre_ping=True)
        path = Path(str(self.url.database))
        if path.is_dir():
            raise LongAtlasError(
                f"store '{path}' is a folder; give the path of a file, such as {path / 'store.sqlite'}"
            )
        if not self.read_only:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise LongAtlasError(
                    f"cannot make the folder of store '{path}': {error.strerror}; choose another with --store"
                ) from None
        elif not path.exists():
            raise LongAtlasError(f"store '{path}' does not exist; make one with `longatlas run` or `longatlas demo`")
        if self.read_only and not os.access(path.parent, os.W_OK):
            return self._make_engine(creator=lambda: _connect_immutable(path))
        return self._make_engine(connect_args={"timeout": 30})

    def _make_engine(self, **options: Any) -> Engine:
        try:
            return sa.create_engine(self.url, **options)
        except NoSuchModuleError:
            raise LongAtlasError(
                f"store '{self.name}' is of the unknown kind '{self.url.drivername}'; give a path, or a URL that "
                "SQLAlchemy knows, such as postgresql://user@host/name"
            ) from None
        except ModuleNotFoundError as error:
            raise LongAtlasError(f"store '{self.name}' needs the module '{error.name}'; pip install it") from None

    def _prepare(self) -> None:
        try:
            with self.engine.connect() as connection:
                names = sa.inspect(connection).get_table_names()
                version = self._version(connection) if _schema.tables.keys() <= set(names) else 0
        except DatabaseError as error:
            raise self._explain(error) from None
        if version > SCHEMA_VERSION:
            raise LongAtlasError(
                f"store '{self.name}' has schema version {version}; this longatlas reads up to {SCHEMA_VERSION}: "
                "install a newer longatlas, or choose another store with --store"
            )
        if version == 0 and names and not self.read_only:
            raise LongAtlasError(
                f"store '{self.name}' is a database of something else (tables: {', '.join(names[:5])}); "
                "choose another with --store"
            )
        if version == 0:
            if self.read_only:
                raise LongAtlasError(f"store '{self.name}' holds no longatlas results; choose another with --store")
            self._create()

    def _create(self) -> None:
        with self._writing() as connection:
            if self.is_sqlite:
                _set_wal(connection)
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            _schema.create_all(connection)
            there = connection.execute(sa.select(META.c.key)).scalar()
            if there is None:
                connection.execute(sa.insert(META).values(key="version", value=str(SCHEMA_VERSION)))

    def _version(self, connection: Connection) -> int:
        value = connection.execute(sa.select(META.c.value).where(META.c.key == "version")).scalar()
        return int(value or 0)

    def _explain(self, error: Exception) -> LongAtlasError:
        text = str(getattr(error, "orig", error))
        if "not a database" in text or "malformed" in text:
            return LongAtlasError(f"store '{self.name}' is no SQLite file; choose another with --store")
        if "readonly" in text or "unable to open" in text:
            return LongAtlasError(
                f"store '{self.name}' cannot be written ({text}); make it writable, or choose another with --store"
            )
        return LongAtlasError(f"store '{self.name}': {text}")

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        try:
            with self.engine.begin() as connection:
                yield connection
        except (DatabaseError, OperationalError) as error:
            raise self._explain(error) from None

    def check_writable(self) -> None:
        """Raise LongAtlasError now rather than after the first measurement."""
        with self._writing() as connection:
            connection.execute(sa.update(META).where(META.c.key == "version").values(value=str(SCHEMA_VERSION)))

    # Cells and rows

    def finished(self, keys: Iterable[str], *, timeout: float = 0.0) -> dict[str, str]:
        """Key -> status of those cells that are finished; a `timeout` after less than `timeout` seconds is not."""
        wanted = list(keys)
        found: dict[str, str] = {}
        with self.engine.connect() as connection:
            for start in range(0, len(wanted), 500):
                part = wanted[start : start + 500]
                given_up = (CELLS.c.status != "timeout") | (CELLS.c.seconds >= timeout)
                query = sa.select(CELLS.c.key, CELLS.c.status).where(CELLS.c.key.in_(part), given_up)
                found |= {row.key: row.status for row in connection.execute(query)}
        return found

    def save(self, cell: Cell, rows: Sequence[Mapping[str, Any]], seconds: float) -> None:
        """Store a finished cell with its rows, in one transaction; what an earlier run found is replaced."""
        common = _common_columns(cell)
        records = [{**common, **_encode(row)} for row in rows]
        with self._writing() as connection:
            connection.execute(sa.delete(ROWS).where(ROWS.c.cell == cell.key))
            connection.execute(sa.delete(CELLS).where(CELLS.c.key == cell.key))
            connection.execute(sa.insert(ROWS), records)
            status = str(records[0]["status"])
            connection.execute(
                sa.insert(CELLS).values(key=cell.key, status=status, finished=time.time(), seconds=seconds)
            )

    def rows(
        self,
        *,
        keys: Sequence[str] | None = None,
        methods: Sequence[str] = (),
        measure: str = "",
        phase: str = "",
        samples: bool = False,
    ) -> pd.DataFrame:
        """Rows as a frame, oldest first, one line per measured value.

        keys     only rows of these cells
        methods  only these specs; a bare name matches every spec of that method
        samples  include the raw samples
        """
        import pandas as pd

        columns = [c for c in ROWS.c if samples or c.name != "samples"]
        query = sa.select(*columns).order_by(ROWS.c.id)
        if methods:
            query = query.where(sa.or_(*(_matches(name) for name in methods)))
        if measure:
            query = query.where(ROWS.c.measure == measure)
        if phase:
            query = query.where(ROWS.c.phase == phase)
        with self.engine.connect() as connection:
            if keys is None:
                frame = pd.read_sql(query, connection)
            else:
                parts = [keys[i : i + 500] for i in range(0, len(keys), 500)] or [[]]
                frame = pd.concat([pd.read_sql(query.where(ROWS.c.cell.in_(part)), connection) for part in parts])
        for name in set(_JSON) & set(frame.columns):
            frame[name] = frame[name].map(json.loads)
        return frame.reset_index(drop=True)

    def last_row_id(self) -> int:
        """Grows with every stored row; a cheap way to see whether anything is new."""
        with self.engine.connect() as connection:
            return int(connection.execute(sa.select(sa.func.max(ROWS.c.id))).scalar() or 0)


def _connect_immutable(path: Path) -> sqlite3.Connection:
    """A connection that needs no files beside the store's, for a folder that nothing can be written in."""
    return sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True, check_same_thread=False)


def _set_wal(connection: Connection) -> None:
    """Readers then never wait for a writer; the file keeps this mode. Another process may be doing the same."""
    for _ in range(100):
        try:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            return
        except OperationalError as error:
            if "locked" not in str(error):
                raise
            time.sleep(0.05)


def _matches(method: str) -> sa.ColumnElement[bool]:
    exact = ROWS.c.method == method
    return exact if ":" in method or "+" in method else exact | ROWS.c.method.startswith(f"{method}:")


def _common_columns(cell: Cell) -> dict[str, Any]:
    facts = environment()
    return {
        "cell": cell.key,
        "method": cell.method,
        "options": json.dumps(cell.options),
        "impl": cell.impl,
        "measure": cell.measure,
        "phase": cell.phase,
        "T": cell.T,
        "metric": "",
        "value": None,
        "unit": "",
        "low": None,
        "high": None,
        "status": "ok",
        "reason": "",
        "device": cell.device,
        "dtype": cell.dtype,
        "case": json.dumps(cell.case),
        "seed": cell.seed,
        "threads": cell.threads,
        "n": 0,
        "samples": "[]",
        "machine": facts["machine"],
        "versions": json.dumps(facts),
        "source": cell.source,
        "created": time.time(),
    }


def _encode(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: json.dumps(value) if key in _JSON else value for key, value in row.items()}
