"""Puts cells into the tables; used by the store, by imports and by migrations alike."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from longatlas.store.record import ROW_DEFAULTS, Record, canonical
from longatlas.store.schema import CELLS, ROWS, SAMPLES, SERIES, SETTINGS


def put(connection: Connection, records: Iterable[Record]) -> None:
    """Insert cells; one with the same key is replaced, an earlier one of the same measurement is superseded.

    A cell from elsewhere supersedes only what was finished before it.
    """
    for record in records:
        remove(connection, CELLS.c.key == record.key)
        series = _series_id(connection, record)
        cell = _insert_cell(connection, record, series)
        _insert_rows(connection, record, series, cell)


def remove(connection: Connection, which: sa.ColumnElement[bool]) -> int:
    """Delete cells with their rows and samples; how many cells. Call mark_latest afterwards unless one is put back."""
    cells = sa.select(CELLS.c.id).where(which)
    rows = sa.select(ROWS.c.id).where(ROWS.c.cell.in_(cells))
    connection.execute(sa.delete(SAMPLES).where(SAMPLES.c.row.in_(rows)))
    connection.execute(sa.delete(ROWS).where(ROWS.c.cell.in_(cells)))
    return connection.execute(sa.delete(CELLS).where(which)).rowcount


def mark_latest(connection: Connection) -> None:
    """One cell of each measurement is the latest: the one that was, or of those that are left the one finished last."""
    place = sa.func.row_number().over(
        partition_by=(CELLS.c.series, CELLS.c["T"], CELLS.c.seed),
        order_by=(CELLS.c.latest.desc(), CELLS.c.finished.desc(), CELLS.c.id.desc()),
    )
    ranked = sa.select(CELLS.c.id, place.label("place")).subquery()
    newest = sa.select(ranked.c.id).where(ranked.c.place == 1)
    connection.execute(sa.update(CELLS).values(latest=0))
    connection.execute(sa.update(CELLS).where(CELLS.c.id.in_(newest)).values(latest=1))


def _insert_cell(connection: Connection, record: Record, series: int) -> int:
    same = (CELLS.c.series == series) & (CELLS.c["T"] == record.T) & (CELLS.c.seed == record.facts["seed"])
    older = CELLS.c.finished <= record.facts["created"] if record.origin else sa.true()
    connection.execute(sa.update(CELLS).where(same, CELLS.c.latest == 1, older).values(latest=0))
    newer = connection.execute(sa.select(CELLS.c.id).where(same, CELLS.c.latest == 1).limit(1)).scalar()
    own = {"series": series, "T": record.T, "status": record.status, "origin": record.origin}
    values = {**record.stored("cells"), **own, "latest": int(newer is None)}
    return int(connection.execute(sa.insert(CELLS).values(**values).returning(CELLS.c.id)).scalar_one())


def _insert_rows(connection: Connection, record: Record, series: int, cell: int) -> None:
    for row in record.rows:
        values = {**ROW_DEFAULTS, "T": record.T, **row}
        samples = values.pop("samples", None)
        query = sa.insert(ROWS).values(cell=cell, series=series, **values).returning(ROWS.c.id)
        number = connection.execute(query).scalar_one()
        if samples:
            connection.execute(sa.insert(SAMPLES).values(row=number, samples=json.dumps(list(samples))))


def _series_id(connection: Connection, record: Record) -> int:
    setting = _find_or_make(connection, SETTINGS, record.stored("settings"))
    return _find_or_make(connection, SERIES, {**record.stored("series"), "setting": setting})


def _find_or_make(connection: Connection, table: sa.Table, values: dict[str, Any]) -> int:
    digest = hashlib.sha256(canonical(values).encode()).hexdigest()[:24]
    query = sa.select(table.c.id).where(table.c.digest == digest)
    found = connection.execute(query).scalar()
    if found is None:
        dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
        connection.execute(dialect.insert(table).values(digest=digest, **values).on_conflict_do_nothing())
        found = connection.execute(query).scalar_one()
    return int(found)
