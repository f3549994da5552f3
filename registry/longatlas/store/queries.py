"""What the dashboard asks a store, answered by the database so that a million rows need not be loaded."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from longatlas import identity
from longatlas.measures import MEMORY, QUALITY, SPEED
from longatlas.store.schema import CELLS, FLAT, ROWS, SERIES, SETTINGS
from longatlas.store.store import Store, flat_rows

if TYPE_CHECKING:
    import pandas as pd

PAGE = 500  # rows
RUN_GAP = 900.0  # seconds
NOT_PLOTTED = ("options", "case", "versions", "origin", "machine", "cell", "seconds", "created")
FILTERS = ("method", "measure", "phase", "level", "status", "device", "dtype")


def current_sources(store: Store) -> frozenset[str]:
    """Today's digests (longatlas.identity) of the code of all that is stored: a row whose `source` is no one of them
    was measured by code that has changed since, or that is not installed any more.
    """
    columns = (*(SERIES.c[name] for name in ("method", "impl", "measure", "phase")), SETTINGS.c.case)
    query = sa.select(*columns).join(SETTINGS, SERIES.c.setting == SETTINGS.c.id).distinct()
    with store.reading() as connection:
        cells = [(*row[:4], str(json.loads(row[4]).get("preset", ""))) for row in connection.execute(query)]
    return identity.current_sources(cells)


def with_stale(rows: pd.DataFrame, sources: Collection[str]) -> pd.DataFrame:
    """Rows with the column `stale`: their `source` is none of today's (current_sources)."""
    return rows.assign(stale=~rows["source"].isin(list(sources)))


def counts(store: Store) -> tuple[int, int, int]:
    """Rows, cells, and methods with a cell."""
    rows, cells = (sa.select(sa.func.count()).select_from(table).scalar_subquery() for table in (ROWS, CELLS))
    named = sa.select(sa.func.count(sa.distinct(SERIES.c.method))).scalar_subquery()
    with store.reading() as connection:
        found = connection.execute(sa.select(rows, cells, named)).one()
    return int(found[0]), int(found[1]), int(found[2])


def methods(store: Store) -> pd.DataFrame:
    """Specs with a cell, and how many cells. Columns: method, cells."""
    per_series = sa.select(CELLS.c.series, sa.func.count().label("cells")).group_by(CELLS.c.series).subquery()
    query = (
        sa.select(SERIES.c.method, sa.func.sum(per_series.c.cells).label("cells"))
        .join(per_series, per_series.c.series == SERIES.c.id)
        .group_by(SERIES.c.method)
        .order_by(sa.func.min(SERIES.c.id))
    )
    return store.frame(query)


def methods_on(store: Store, machines: Sequence[str], sources: Collection[str]) -> pd.DataFrame:
    """Specs with a number that machines (longatlas.identity.machine_name) measured.

    Columns: method, checked (it has a time of one of today's `sources`, and is compared with its reference before).
    """
    today = CELLS.c.source.in_(list(sources))
    timed = sa.func.max(sa.case((today & (SERIES.c.measure == SPEED.name), 1), else_=0))
    query = (
        sa.select(SERIES.c.method, timed.label("checked"))
        .join(CELLS, CELLS.c.series == SERIES.c.id)
        .join(SETTINGS, SERIES.c.setting == SETTINGS.c.id)
        .where(SETTINGS.c.machine.in_(list(machines)), CELLS.c.status == "ok")
        .group_by(SERIES.c.method)
        .order_by(sa.func.min(SERIES.c.id))
    )
    return store.frame(query).astype({"checked": bool})


def settings(store: Store, methods: Sequence[str], measures: Sequence[str], phase: str = "") -> pd.DataFrame:
    """The settings that methods were measured under, the newest first: only rows of one setting compare.

    Columns: setting, level, machine, device, dtype, threads, case, cells, methods (how many of them have a cell), and
    `created` of the newest cell.
    """
    newest = (
        sa.select(
            CELLS.c.series,
            sa.func.count().label("cells"),
            sa.func.max(CELLS.c.finished).label("created"),
        )
        .where(CELLS.c.latest == 1)
        .group_by(CELLS.c.series)
        .subquery()
    )
    query = (
        sa.select(
            SETTINGS.c.id.label("setting"),
            SERIES.c.level,
            *(SETTINGS.c[name] for name in ("machine", "device", "dtype", "threads", "case")),
            sa.func.sum(newest.c.cells).label("cells"),
            sa.func.count(sa.distinct(SERIES.c.method)).label("methods"),
            sa.func.max(newest.c.created).label("created"),
        )
        .select_from(_measured_series(newest))
        .where(SERIES.c.method.in_(list(methods)), SERIES.c.measure.in_(list(measures)))
        .group_by(*(SETTINGS.c), SERIES.c.level)
        .order_by(sa.desc("created"))
    )
    return store.frame(query.where(SERIES.c.phase == phase) if phase else query)


def _measured_series(newest: sa.Subquery) -> sa.FromClause:
    found = SERIES.join(newest, newest.c.series == SERIES.c.id)
    return found.join(SETTINGS, SETTINGS.c.id == SERIES.c.setting)


def tasks(store: Store, methods: Sequence[str]) -> list[str]:
    """Quality tasks that methods were measured in, the first measured first."""
    query = sa.select(SERIES.c.phase).where(SERIES.c.measure == QUALITY.name, SERIES.c.method.in_(list(methods)))
    with store.reading() as connection:
        return list(connection.execute(query.group_by(SERIES.c.phase).order_by(sa.func.min(SERIES.c.id))).scalars())


def metrics(store: Store, methods: Sequence[str], measure: str) -> pd.DataFrame:
    """What was stored of methods under a measure. Columns: phase, metric ("" of a failed cell)."""
    named = sa.select(SERIES.c.id, SERIES.c.phase).where(
        SERIES.c.measure == measure, SERIES.c.method.in_(list(methods))
    )
    series = named.subquery()
    return store.frame(sa.select(series.c.phase, ROWS.c.metric).join(ROWS, ROWS.c.series == series.c.id).distinct())


def rows_of(
    store: Store, methods: Sequence[str], measures: Sequence[str], setting: int, level: str, *, whole: bool = False
) -> pd.DataFrame:
    """The newest flat rows of methods under one setting and level.

    whole  every column and the samples, as an export has them; else without what no plot shows, but with `budget`
           (seconds of samples that a timing could take, NaN where that is not known)
    """
    chosen = (
        SERIES.c.method.in_(list(methods)),
        SERIES.c.measure.in_(list(measures)),
        SERIES.c.setting == setting,
        SERIES.c.level == level,
    )
    columns = flat_rows(samples=True) if whole else flat_rows(without=NOT_PLOTTED).add_columns(_budget(store))
    query = columns.where(*chosen, CELLS.c.latest == 1)
    return store.frame(query.order_by(ROWS.c.id))


def _budget(store: Store) -> sa.ColumnElement[Any]:
    """The budget among a cell's facts."""
    if store.is_sqlite:
        return sa.func.json_extract(CELLS.c.versions, "$.budget", type_=sa.Float).label("budget")
    budget: sa.ColumnElement[Any] = sa.cast(CELLS.c.versions, sa.JSON)["budget"].as_float()
    return budget.label("budget")


def past(store: Store, methods: Sequence[str]) -> pd.DataFrame:
    """The newest ok cells of methods, oldest first, with what they took.

    Columns: method, measure, phase, level, impl, machine, device, dtype, threads, case, T, seconds, peak (bytes, NaN
    where it was not taken), and of a timing median, low and high (seconds) and n (samples), NaN else.
    """
    peak = sa.select(ROWS.c.value).where(ROWS.c.cell == CELLS.c.id, ROWS.c.metric == "peak_bytes").limit(1)
    timed = ROWS.alias()
    columns = (
        *(SERIES.c[name] for name in ("method", "measure", "phase", "level", "impl")),
        *(SETTINGS.c[name] for name in ("machine", "device", "dtype", "threads", "case")),
        CELLS.c.T,
        CELLS.c.seconds,
        sa.case((SERIES.c.measure == MEMORY.name, peak.scalar_subquery())).label("peak"),
        *(
            (timed.c[name] / 1000.0).label(label)
            for name, label in (("value", "median"), ("low", "low"), ("high", "high"))
        ),
        timed.c.n,
    )
    tables = CELLS.join(SERIES, CELLS.c.series == SERIES.c.id).join(SETTINGS, SERIES.c.setting == SETTINGS.c.id)
    its_time = (timed.c.cell == CELLS.c.id) & (timed.c.metric == SERIES.c.phase + "_ms")
    tables = tables.outerjoin(timed, its_time & (SERIES.c.measure == SPEED.name))
    chosen = (SERIES.c.method.in_(list(methods)), CELLS.c.latest == 1, CELLS.c.status == "ok")
    return store.frame(sa.select(*columns).select_from(tables).where(*chosen).order_by(CELLS.c.finished))


def values(store: Store, name: str) -> list[str]:
    """The different values of a filter's column."""
    column = CELLS.c.status if name == "status" else FLAT[name]
    with store.reading() as connection:
        return sorted(connection.execute(sa.select(column).distinct()).scalars())


def runs(store: Store) -> pd.DataFrame:
    """Cells that were finished one after the other, or imported from one file: the newest run first.

    A run ends where nothing was measured for RUN_GAP seconds. Columns: origin ("" = measured into this store), start
    and end (seconds since 1970), cells.
    """
    columns = (CELLS.c.origin, CELLS.c.finished, CELLS.c.seconds)
    found = store.frame(sa.select(*columns).order_by(CELLS.c.origin, CELLS.c.finished))
    idle = found["finished"].diff() - found["seconds"]
    new = (found["origin"] != found["origin"].shift()) | (idle > RUN_GAP)
    parts = found.groupby([new.cumsum(), "origin"], sort=False)["finished"].agg(["min", "max", "size"])
    parts = parts.reset_index("origin").rename(columns={"min": "start", "max": "end", "size": "cells"})
    return parts.sort_values("start", ascending=False, ignore_index=True)


def rows_of_run(store: Store, origin: str, start: float, end: float) -> pd.DataFrame:
    """The flat rows of a run."""
    inside = (CELLS.c.origin == origin, CELLS.c.finished >= start, CELLS.c.finished <= end)
    return store.frame(flat_rows().where(*inside).order_by(ROWS.c.id))


def count(
    store: Store,
    chosen: Mapping[str, Sequence[str]],
    *,
    latest: bool = False,
    complete: bool = False,
    sources: Collection[str] | None = None,
) -> int:
    """How many rows match filters: column -> wanted values.

    complete  only the newest rows of methods that have a number wherever any method of their setting has a cell
    sources   only rows of these (current_sources)
    """
    query = sa.select(sa.func.count()).select_from(_tables(latest or complete or sources is not None))
    query = _filtered(query, store, chosen, latest, complete, sources)
    with store.reading() as connection:
        return int(connection.execute(query).scalar_one())


def page(
    store: Store,
    chosen: Mapping[str, Sequence[str]],
    *,
    latest: bool = False,
    complete: bool = False,
    sources: Collection[str] | None = None,
    number: int = 0,
    size: int = PAGE,
    samples: bool = False,
) -> pd.DataFrame:
    """Flat rows that match filters (see count), the newest first: page `number`, from 0; samples: with the raw ones."""
    every = sa.select(ROWS.c.id).select_from(_tables(latest or complete or sources is not None))
    ids = _filtered(every, store, chosen, latest, complete, sources)
    found = ids.order_by(ROWS.c.id.desc()).limit(size).offset(number * size).subquery()
    rows = flat_rows(samples=samples).where(ROWS.c.id.in_(sa.select(found.c.id)))
    return store.frame(rows.order_by(ROWS.c.id.desc()))


def _tables(with_cells: bool) -> sa.FromClause:
    return ROWS.join(CELLS, ROWS.c.cell == CELLS.c.id) if with_cells else ROWS


def _filtered(
    query: sa.Select[Any],
    store: Store,
    chosen: Mapping[str, Sequence[str]],
    latest: bool,
    complete: bool,
    sources: Collection[str] | None,
) -> sa.Select[Any]:
    wanted = {name: list(given) for name, given in chosen.items() if given}
    statuses = wanted.pop("status", [])
    if complete:
        query = query.where(ROWS.c.series.in_(_complete_series(store)))
    if wanted:
        query = query.where(ROWS.c.series.in_(_series(store, wanted)))
    if statuses:
        query = query.where(ROWS.c.status.in_(statuses))
        if "ok" not in statuses:
            query = query.where(ROWS.c.status != "ok")  # lets the index of failures serve
    if sources is not None:
        query = query.where(CELLS.c.source.in_(list(sources)))
    return query.where(CELLS.c.latest == 1) if latest or complete else query


def _complete_series(store: Store) -> list[int]:
    """Series of methods that lack nothing: ok at every phase and T that their setting, measure and level has."""
    names = ("setting", "measure", "level", "method", "phase")
    columns = [SERIES.c.id.label("series"), *(SERIES.c[name] for name in names), CELLS.c.T, CELLS.c.status]
    newest = sa.select(*columns).join(CELLS, CELLS.c.series == SERIES.c.id).where(CELLS.c.latest == 1)
    cells = store.frame(newest)
    place = ["setting", "measure", "level"]
    needed = cells.drop_duplicates([*place, "phase", "T"]).groupby(place).size().rename("needed")
    good = cells[cells["status"] == "ok"].drop_duplicates([*place, "method", "phase", "T"])
    had = good.groupby([*place, "method"]).size().rename("had").reset_index().merge(needed.reset_index(), on=place)
    complete = had.loc[had["had"] == had["needed"], [*place, "method"]]
    return [int(number) for number in cells.merge(complete, on=[*place, "method"])["series"].unique()]


def _series(store: Store, wanted: Mapping[str, Sequence[str]]) -> list[int]:
    query = sa.select(SERIES.c.id).join(SETTINGS, SERIES.c.setting == SETTINGS.c.id)
    query = query.where(*(FLAT[name].in_(given) for name, given in wanted.items()))
    with store.reading() as connection:
        return list(connection.execute(query).scalars())
