"""Takes results out of a store that nobody needs any more."""

from __future__ import annotations

import re
import time

import sqlalchemy as sa

from longatlas.errors import LongAtlasError
from longatlas.store.schema import CELLS, META, ROWS, SERIES
from longatlas.store.store import PRUNED, Store, matches
from longatlas.store.writing import mark_latest, remove

_UNITS = {"h": 3600, "d": 86400, "w": 7 * 86400}


def selection(
    *, older_than: str = "", superseded: bool = False, failed: bool = False, method: str = ""
) -> sa.ColumnElement[bool]:
    """Which cells are meant; each condition narrows it. Raises LongAtlasError when none is given.

    older_than  an age such as "30d", "12h" or "8w"
    superseded  those that a newer one of the same measurement has replaced
    failed      those whose status is not ok
    method      a spec; a bare name matches every spec of that method
    """
    chosen: list[sa.ColumnElement[bool]] = []
    if older_than:
        chosen.append(CELLS.c.finished < time.time() - _seconds(older_than))
    if superseded:
        chosen.append(CELLS.c.latest == 0)
    if failed:
        chosen.append(CELLS.c.status != "ok")
    if method:
        chosen.append(CELLS.c.series.in_(sa.select(SERIES.c.id).where(matches(method))))
    if not chosen:
        raise LongAtlasError("nothing says what to prune; give --older-than, --superseded, --failed or --method")
    return sa.and_(*chosen)


def count(store: Store, which: sa.ColumnElement[bool]) -> tuple[int, int]:
    """Cells that are meant, and their rows."""
    cells = sa.select(CELLS.c.id).where(which)
    with store.reading() as connection:
        found = connection.execute(sa.select(sa.func.count()).select_from(cells.subquery())).scalar_one()
        rows = sa.select(sa.func.count()).select_from(ROWS).where(ROWS.c.cell.in_(cells))
        return int(found), int(connection.execute(rows).scalar_one())


def prune(store: Store, which: sa.ColumnElement[bool]) -> int:
    """Delete cells with their rows, give the space back, and say how many cells it were."""
    with store.writing() as connection:
        removed = remove(connection, which)
        mark_latest(connection)
        empty = SERIES.c.id.not_in(sa.select(CELLS.c.series))
        connection.execute(sa.delete(SERIES).where(empty))
        connection.execute(sa.delete(META).where(META.c.key == PRUNED))
        connection.execute(sa.insert(META).values(key=PRUNED, value=str(time.time())))
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM")
    return removed


def _seconds(age: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", age.strip())
    if found is None:
        raise LongAtlasError(f"--older-than is '{age}'; expected a number with h, d or w, such as 30d")
    return float(found[1]) * _UNITS[found[2]]
