"""Results out of a store and into another: flat rows as CSV, JSON or Parquet, checked on the way in."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longatlas.columns import COLUMNS, JSON_COLUMNS, checked, of_tables
from longatlas.errors import LongAtlasError, unknown_name
from longatlas.measures import MEASURES
from longatlas.store.plain import plain_rows
from longatlas.store.record import Record
from longatlas.store.schema import CELLS
from longatlas.store.store import Store
from longatlas.store.writing import put
from longatlas.words import LEVELS, OK, PHASES, POLICIES

if TYPE_CHECKING:
    import pandas as pd

Rows = list[dict[str, Any]]
Tell = Callable[[str], None]
Reader = Callable[[Path, Callable[[str], None], int], list[dict[str, Any]]]

LARGEST_FILE = 512 << 20  # bytes
MOST_ROWS = 1_000_000  # of one file
MOST_LAYERS = 10_000


@dataclass(frozen=True)
class Imported:
    """What an import did: cells taken in with their rows, and cells that were there already."""

    cells: int
    rows: int
    known: int


def export_rows(frame: pd.DataFrame, path: Path) -> None:
    """Write flat rows to a .csv, .json or .parquet file, whole or not at all.

    Raises LongAtlasError for another suffix and where the file cannot be written.
    """
    kind = _kind(path)
    flat = frame if kind == "json" else _with_text(frame)
    writers: dict[str, Callable[[Path], None]] = {
        "csv": lambda target: flat.to_csv(target, index=False, float_format="%.17g"),
        "json": lambda target: _write_json(flat, target),
        "parquet": lambda target: flat.to_parquet(target, index=False),
    }
    partial = path.with_name(f"{path.name}.partial")
    try:
        writers[kind](partial)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise LongAtlasError(f"cannot write '{path}': {error.strerror}; choose another place") from None


def read_rows(path: Path, tell: Tell = lambda text: None, *, most: int = MOST_ROWS) -> Rows:
    """The checked flat rows of a file that export_rows or `--json` wrote, or pytest-benchmark with longatlas's plugin.

    tell  told what of the file is left out, and why
    most  rows that the file may hold

    Raises LongAtlasError that names the file, the row and the column.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise LongAtlasError(f"'{path}' is larger than {LARGEST_FILE >> 20} MiB; export a part of it (--method)")
        found = _READERS[_kind(path)](path, tell, most)
        if len(found) > most:
            raise _too_many(path, len(found), most)
        if not found:
            raise LongAtlasError(f"'{path}' holds no rows; choose a file that `longatlas results export` wrote")
    except OSError as error:
        raise LongAtlasError(f"cannot read '{path}': {error.strerror}") from None
    except LongAtlasError:
        raise
    except Exception as error:  # a library's own words for a damaged file
        raise LongAtlasError(f"'{path}' cannot be read as {_kind(path).upper()}: {error}") from None
    return [_checked(row, f"'{path}', row {number}") for number, row in enumerate(found, 1)]


def import_rows(store: Store, rows: Rows, origin: str) -> Imported:
    """Take rows in, in one transaction; cells that the store has already are left as they are.

    origin  where they come from, shown beside them
    """
    records = list(_records(rows, origin))
    with store.writing() as connection:
        import sqlalchemy as sa

        there = set(connection.execute(sa.select(CELLS.c.key)).scalars())
        new = [record for record in records if record.key not in there]
        put(connection, new)
    return Imported(len(new), sum(len(record.rows) for record in new), len(records) - len(new))


def _kind(path: Path) -> str:
    kind = path.suffix.lower().lstrip(".")
    if kind not in ("csv", "json", "parquet"):
        raise LongAtlasError(f"'{path}' has the suffix '{path.suffix}'; it must be .csv, .json or .parquet")
    return kind


def _with_text(frame: pd.DataFrame) -> pd.DataFrame:
    columns = [name for name in JSON_COLUMNS if name in frame]
    return frame.assign(**{name: [json.dumps(value) for value in frame[name]] for name in columns})


def _write_json(frame: pd.DataFrame, path: Path) -> None:
    path.write_text(json.dumps(plain_rows(frame), indent=1) + "\n")


def _too_many(path: Path, found: int, most: int) -> LongAtlasError:
    return LongAtlasError(
        f"'{path}' holds {found:,} rows; at most {most:,} are taken at a time: export parts (--method)"
    )


def _read_csv(path: Path, tell: Tell, most: int) -> Rows:
    import pandas as pd

    # Text that looks like a number stays text.
    kinds: Any = {column.name: str for column in COLUMNS.values() if column.kind not in (int, float)}
    empty = {column.name: [""] for column in COLUMNS.values() if column.kind is float}
    try:
        frame = pd.read_csv(path, keep_default_na=False, na_values=empty, dtype=kinds)
    except pd.errors.EmptyDataError:  # not even the names of columns
        return []
    return plain_rows(frame)


def _read_parquet(path: Path, tell: Tell, most: int) -> Rows:
    from pyarrow.parquet import ParquetFile

    file = ParquetFile(path)
    facts = file.metadata
    if facts.num_rows > most:
        raise _too_many(path, facts.num_rows, most)
    texts = [facts.schema.column(i).path for i in range(facts.num_columns)]
    too_large = LongAtlasError(
        f"'{path}' holds more than {LARGEST_FILE >> 20} MiB unpacked; export a part of it (--method)"
    )
    if sum(facts.row_group(i).total_byte_size for i in range(facts.num_row_groups)) > LARGEST_FILE:
        raise too_large
    # A text that stands in many rows is held once until its size in all of them is known.
    table = ParquetFile(path, read_dictionary=texts).read()
    if sum(_decoded_bytes(table.column(name)) for name in table.column_names) > LARGEST_FILE:
        raise too_large
    return plain_rows(table.to_pandas())


def _decoded_bytes(column: Any) -> int:
    """Bytes of a column of Parquet once each row has its own text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    sizes = (pc.take(pc.binary_length(chunk.dictionary), chunk.indices) for chunk in column.chunks)
    return sum(int(pc.sum(lengths).as_py() or 0) for lengths in sizes)


def _read_json(path: Path, tell: Tell, most: int) -> Rows:
    found = json.loads(path.read_text())
    if isinstance(found, dict) and "benchmarks" in found:
        rows, others = _rows_of_benchmarks(found, str(path))
        if others:
            tell(f"{path}: {others} benchmarks of other suites are left out: they have no rows of longatlas's")
        return rows
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise LongAtlasError(f"'{path}' holds no list of rows; `longatlas results export` writes one")
    return found


def _rows_of_benchmarks(saved: dict[str, Any], file: str) -> tuple[Rows, int]:
    """The flat rows of a file that pytest-benchmark saved, and how many benchmarks of other suites it has besides.

    Raises LongAtlasError when it has none of longatlas's.
    """
    ours = [b["extra_info"]["longatlas"] for b in saved["benchmarks"] if "longatlas" in b.get("extra_info", {})]
    others = len(saved["benchmarks"]) - len(ours)
    if not ours:
        raise LongAtlasError(
            f"'{file}' has {others} benchmarks, none of longatlas's; those that `pytest --pyargs longatlas.bench` "
            "saves can be read"
        )
    return [row for rows in ours for row in rows], others


_READERS: dict[str, Reader] = {"csv": _read_csv, "json": _read_json, "parquet": _read_parquet}


def _checked(row: Mapping[str, Any], place: str) -> dict[str, Any]:
    """A row with every column of its right type, or an error that names the column."""
    unknown = set(row) - set(COLUMNS) - {"stale"}  # which `results --json` tells of today, and no row holds
    if unknown:
        name = min(unknown).encode(errors="backslashreplace").decode()
        raise LongAtlasError(f"{place}: {unknown_name('column', name, COLUMNS)}")
    made = {name: checked(name, row.get(name), place) for name, column in COLUMNS.items() if not column.ours}
    _check_words(made, place)
    return made


def _check_words(row: Mapping[str, Any], place: str) -> None:
    shaped = MEASURES[row["measure"]].shaped
    known = {"phase": PHASES, "level": ("", *LEVELS), "policy": ("", *POLICIES)} if shaped else {}
    for name, words in known.items():
        if row[name] not in words:
            raise LongAtlasError(f"{place}: {name} is the {unknown_name('value', row[name], words)}")
    _check_case(row["case"], shaped, place)
    for name in ("cell", "method"):
        if not row[name]:
            raise LongAtlasError(f"{place}: {name} is empty; every row names one")
    if row["status"] == OK and row["metric"] and (row["value"] is None or not math.isfinite(row["value"])):
        raise LongAtlasError(f"{place}: value is {row['value']!r} with status ok; expected a finite number")


def _check_case(case: Mapping[str, Any], shaped: bool, place: str) -> None:
    """A case names the shape of time and memory, and the preset of a task."""
    if not shaped:
        if not isinstance(case.get("preset"), str):
            raise LongAtlasError(f"{place}: case is {case!r}; expected the task's preset in it, such as 'demo'")
        return
    for name in ("batch", "heads", "head_size", *(name for name in ("kv_heads", "layers", "ranks") if name in case)):
        value = case.get(name)
        most = MOST_LAYERS if name == "layers" else 2**31
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise LongAtlasError(f"{place}: case has {name} {value!r}; expected a whole number from 1 to {most}")


def _records(rows: Rows, origin: str) -> Iterator[Record]:
    shared = of_tables("settings", "series", "cells")
    order = {key: number for number, key in reversed(list(enumerate(row["cell"] for row in rows)))}
    for key, group in groupby(sorted(rows, key=lambda row: order[row["cell"]]), key=lambda row: row["cell"]):
        members = list(group)
        first = members[0]
        for name in shared:
            if any(row[name] != first[name] for row in members):
                raise LongAtlasError(f"cell '{key}' has rows that differ in {name}; all rows of a cell are of one run")
        T = first["T"] if MEASURES[first["measure"]].shaped else 0
        values = [{name: row[name] for name in of_tables("rows", "samples")} for row in members]
        yield Record({name: first[name] for name in shared}, T, values, origin)
