"""Tables. What many rows share stands once: a row belongs to a cell, a cell to a series, a series to a setting.

settings  machine, device, dtype, threads and case: only numbers of one setting compare
series    a method with its options measured in one way; its cells differ by T, seed, source and versions
cells     finished measurements; `latest` marks the newest of its series, T and seed, `source` is the digest of the
          code that computed it (longatlas.identity), marked with OLDER where an earlier version made it in another way
rows      one measured value each; `series` is repeated here so that a page of rows needs no join to be found
samples   the raw samples of a row, apart because most readers never want them
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from longatlas.columns import COLUMNS

SCHEMA_VERSION = 5
OLDER = "older-"  # before a digest of longatlas 0.1.0, which told too little of the code to be compared with today's

SCHEMA = sa.MetaData()

META = sa.Table("meta", SCHEMA, sa.Column("key", sa.String, primary_key=True), sa.Column("value", sa.String))

_TYPES = {int: sa.Integer, float: sa.Float, str: sa.String, dict: sa.String, list: sa.String}


def _columns(table: str) -> Iterator[sa.Column[Any]]:
    """The columns of a flat row that stand in a table, as longatlas.columns describes them."""
    for column in COLUMNS.values():
        if column.table == table and column.name != "id":
            name, kind = column.stored or column.name, _TYPES[column.kind]
            unique, index = column.unique or None, column.index or None
            yield sa.Column(name, kind, nullable=column.default is None, unique=unique, index=index)


SETTINGS = sa.Table(
    "settings",
    SCHEMA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("digest", sa.String, nullable=False, unique=True),
    *_columns("settings"),
)

SERIES = sa.Table(
    "series",
    SCHEMA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("digest", sa.String, nullable=False, unique=True),
    sa.Column("setting", sa.Integer, nullable=False, index=True),
    *_columns("series"),
)

CELLS = sa.Table(
    "cells",
    SCHEMA,
    sa.Column("id", sa.Integer, primary_key=True),
    *_columns("cells"),
    sa.Column("series", sa.Integer, nullable=False),
    sa.Column("T", sa.Integer, nullable=False),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("latest", sa.Integer, nullable=False),
    sa.Index("ix_cells_series", "series", "latest", "finished"),
    sa.Index("ix_cells_status", "status"),
    sa.Index("ix_cells_source", "source"),
    sqlite_autoincrement=True,
)

ROWS = sa.Table(
    "rows",
    SCHEMA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("cell", sa.Integer, nullable=False, index=True),
    sa.Column("series", sa.Integer, nullable=False, index=True),
    *_columns("rows"),
    sqlite_autoincrement=True,
)
# Failures are few among many rows: this finds them without reading the others.
sa.Index(
    "ix_rows_failed",
    ROWS.c.status,
    sqlite_where=ROWS.c.status != "ok",
    postgresql_where=ROWS.c.status != "ok",
)

SAMPLES = sa.Table(
    "samples",
    SCHEMA,
    sa.Column("row", sa.Integer, primary_key=True, autoincrement=False),
    *_columns("samples"),
)

JOBS = sa.Table(
    "jobs",
    SCHEMA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("plan", sa.String, nullable=False),
    sa.Column("plan_hash", sa.String, nullable=False),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("done", sa.Integer, nullable=False, default=0),
    sa.Column("total", sa.Integer, nullable=False, default=0),
    sa.Column("current", sa.String, nullable=False, default=""),
    sa.Column("error", sa.String, nullable=False, default=""),
    sa.Column("cancel", sa.Integer, nullable=False, default=0),
    sa.Column("retry", sa.Integer, nullable=False, default=0, server_default="0"),
    sa.Column("host", sa.String, nullable=False, default="", server_default=""),
    sa.Column("pid", sa.Integer),
    sa.Column("pid_started", sa.Float),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("started", sa.Float),
    sa.Column("ends", sa.Float),
    sa.Column("finished", sa.Float),
)

# A flat row, as Store.rows and every export give it: name -> column.
FLAT: dict[str, sa.Column[object]] = {
    column.name: SCHEMA.tables[column.table].c[column.stored or column.name] for column in COLUMNS.values()
}
