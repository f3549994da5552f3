"""Where a store lies and how it is opened; every failure in words that say what to do."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError

from longatlas.errors import LongAtlasError

WAIT_SECONDS = 30  # for another writer


def default_store_path() -> Path:
    """The store in the user's data folder."""
    from platformdirs import user_data_path

    return user_data_path("longatlas") / "store.sqlite"


def store_url(where: str | None = None) -> URL:
    """A URL from `where`, else from LONGATLAS_STORE, else the default. A path means SQLite."""
    where = where or os.environ.get("LONGATLAS_STORE") or str(default_store_path())
    if "://" not in where:
        return URL.create("sqlite", database=str(Path(where).expanduser().absolute()))
    try:
        url = make_url(where)
    except (ArgumentError, ValueError):
        raise LongAtlasError(f"store '{where}' is no URL that can be read; give a path or a database URL") from None
    return url.set(drivername="postgresql+psycopg") if url.drivername in ("postgresql", "postgres") else url


def store_name(url: URL) -> str:
    """The path of a SQLite store, else the URL without its password."""
    return str(url.database) if is_sqlite(url) else url.render_as_string(hide_password=True)


def is_sqlite(url: URL) -> bool:
    """Whether a store is a file."""
    return url.get_backend_name() == "sqlite"


def connect(url: URL, *, read_only: bool) -> Engine:
    """An engine for the store; nothing is read yet. Raises LongAtlasError."""
    if not is_sqlite(url):
        engine = _make_engine(url, pool_pre_ping=True)
        return engine.execution_options(postgresql_readonly=True) if read_only else engine
    path = Path(str(url.database))
    if path.is_dir():
        raise LongAtlasError(f"store '{path}' is a folder; give the path of a file, such as {path / 'store.sqlite'}")
    if not read_only:
        _make_folder(path)
    elif not path.exists():
        raise LongAtlasError(f"store '{path}' does not exist; make one with `longatlas run` or `longatlas demo`")
    if read_only and not os.access(path.parent, os.W_OK):
        return _make_engine(url, creator=lambda: _connect_immutable(path))
    engine = _make_engine(url, connect_args={"timeout": WAIT_SECONDS})
    if read_only:
        sa.event.listen(engine, "connect", lambda opened, _: opened.execute("PRAGMA query_only=ON"))
    return engine


def set_wal(connection: Connection) -> None:
    """Readers then never wait for a writer; the file keeps this mode. Another process may be doing the same."""
    for _ in range(100):
        try:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            return
        except OperationalError as error:
            if "locked" not in str(error):
                raise
            time.sleep(0.05)


def explain(url: URL, error: Exception) -> LongAtlasError:
    """What a database's error means for the user of the store."""
    name, text = store_name(url), str(getattr(error, "orig", error)).strip()
    if "not a database" in text or "malformed" in text:
        return LongAtlasError(f"store '{name}' is no SQLite file; choose another with --store")
    if "readonly" in text or "unable to open" in text:
        return LongAtlasError(
            f"store '{name}' cannot be written ({text}); make it writable, or choose another with --store"
        )
    if "full" in text or "disk I/O" in text:
        return LongAtlasError(
            f"store '{name}' cannot grow ({text}); free some space and start the same command again: "
            "what is stored is kept"
        )
    if "locked" in text:
        return LongAtlasError(
            f"store '{name}' was locked by another process for {WAIT_SECONDS} s; wait for it to end, or end it"
        )
    if re.search(r"no such (table|column)|(relation|column) .* does not exist", text):
        return LongAtlasError(
            f"store '{name}' has lost a part ({text.splitlines()[0]}): another program has changed it; put a copy "
            "of it back, or choose another with --store"
        )
    return LongAtlasError(f"store '{name}': {text.splitlines()[0] if text else type(error).__name__}")


def _make_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LongAtlasError(
            f"cannot make the folder of store '{path}': {error.strerror}; choose another with --store"
        ) from None


def _make_engine(url: URL, **options: Any) -> Engine:
    name = store_name(url)
    try:
        return sa.create_engine(url, **options)
    except NoSuchModuleError:
        raise LongAtlasError(
            f"store '{name}' is of the unknown kind '{url.drivername}'; give a path, or a URL that "
            "SQLAlchemy knows, such as postgresql://user@host/name"
        ) from None
    except ModuleNotFoundError as error:
        remedy = "pip install 'longatlas[postgres]'" if error.name == "psycopg" else "pip install it"
        raise LongAtlasError(f"store '{name}' needs the module '{error.name}'; {remedy}") from None


def _connect_immutable(path: Path) -> sqlite3.Connection:
    """A connection that needs no files beside the store's, for a folder that nothing can be written in."""
    return sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True, check_same_thread=False)
