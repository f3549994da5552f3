"""Brings a store of an earlier schema version to this one, in one transaction: all of it or nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from longatlas.columns import COLUMNS, of_tables
from longatlas.measures import MEASURES
from longatlas.store.record import Record
from longatlas.store.schema import CELLS, JOBS, META, OLDER, SCHEMA, SCHEMA_VERSION
from longatlas.store.writing import put


def migrate(connection: Connection, version: int) -> None:
    """From `version` to SCHEMA_VERSION; the caller's transaction holds it together."""
    if version == 1:
        _from_1(connection)
    _add_columns_of_jobs(connection)
    _mark_sources(connection)
    connection.execute(sa.update(META).where(META.c.key == "version").values(value=str(SCHEMA_VERSION)))


def _from_1(connection: Connection) -> None:
    """Version 1 had all facts in every row, and one level and one policy."""
    for index in ("ix_rows_cell", "ix_rows_method"):
        connection.exec_driver_sql(f"DROP INDEX IF EXISTS {index}")
    for table in ("cells", "rows"):
        connection.exec_driver_sql(f"ALTER TABLE {table} RENAME TO {table}_1")
    SCHEMA.create_all(connection)
    put(connection, _records_of_1(connection))
    for table in ("cells", "rows"):
        connection.exec_driver_sql(f"DROP TABLE {table}_1")


def _add_columns_of_jobs(connection: Connection) -> None:
    """Jobs of version 2 could not try failed cells again, nor say where they run; of version 3, when they will end."""
    there = {column["name"] for column in sa.inspect(connection).get_columns("jobs")}
    for column in (JOBS.c.retry, JOBS.c.host, JOBS.c.ends):
        if column.name not in there:
            told = sa.schema.CreateColumn(column).compile(dialect=connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE jobs ADD COLUMN {told}")


def _mark_sources(connection: Connection) -> None:
    """Up to version 4 a source's digest held neither the engine nor the kernels that methods share."""
    connection.execute(sa.update(CELLS).values(source=OLDER + CELLS.c.source))
    for index in CELLS.indexes:
        index.create(connection, checkfirst=True)


def _records_of_1(connection: Connection) -> Iterator[Record]:
    query = (
        "SELECT r.*, c.seconds, c.finished, (SELECT min(id) FROM rows_1 f WHERE f.cell = r.cell) AS first "
        "FROM rows_1 r JOIN cells_1 c ON c.key = r.cell ORDER BY first, r.id"
    )
    found = connection.exec_driver_sql(query).mappings().all()
    for _, rows in groupby(found, key=lambda row: row["cell"]):
        yield _record_of_1([dict(row) for row in rows])


def _record_of_1(rows: list[dict[str, Any]]) -> Record:
    first = rows[0]
    shaped = MEASURES[first["measure"]].shaped
    facts = {name: first[name] for name in of_tables("settings", "series", "cells") if name in first} | {
        "level": "decoder" if shaped else "",
        "policy": "wall" if MEASURES[first["measure"]].timed else "",
        "created": first["finished"],
    }
    values = [
        {"samples": json.loads(row["samples"]), **{name: row[name] for name in of_tables("rows")}} for row in rows
    ]
    read = {name: json.loads(text) if COLUMNS[name].is_json else text for name, text in facts.items()}
    return Record(read, first["T"] if shaped else 0, values)
