"""Results out of a store and into another: flat rows as CSV, JSON or Parquet, checked on the way in."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longatlas.errors import LongAtlasError, unknown_name
from longatlas.harness.plan import MEASURES
from longatlas.store.plain import plain_rows
from longatlas.store.schema import CELLS, FLAT, JSON_COLUMNS
from longatlas.store.store import Store
from longatlas.store.writing import Record, put
from longatlas.words import DEVICES, DTYPES, LEVELS, OK, PHASES, POLICIES, STATUSES

if TYPE_CHECKING:
    import pandas as pd

Rows = list[dict[str, Any]]
Tell = Callable[[str], None]
Reader = Callable[[Path, Callable[[str], None], int], list[dict[str, Any]]]

LARGEST_FILE = 512 << 20  # bytes
MOST_ROWS = 1_000_000  # of one file
MOST_LAYERS = 10_000
DAY = 86_400.0
_INTEGERS = ("T", "seed", "threads", "n")
_NUMBERS = ("value", "low", "high", "seconds", "created")
_MADE_HERE = ("id", "origin")  # not what was measured: given anew by the store that takes the rows
# What an export of an earlier version, or of another tool, may lack.
_OPTIONAL: dict[str, Any] = {"samples": [], "seconds": 0.0, "level": "", "policy": "", "reason": "", "n": 0}


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
    kinds: Any = {name: str for name in FLAT if name not in (*_INTEGERS, *_NUMBERS, "id")}
    try:
        frame = pd.read_csv(path, keep_default_na=False, na_values={name: [""] for name in _NUMBERS}, dtype=kinds)
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
        from longatlas.bench.records import rows_of_benchmarks

        rows, others = rows_of_benchmarks(found, str(path))
        if others:
            tell(f"{path}: {others} benchmarks of other suites are left out: they have no rows of longatlas's")
        return rows
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise LongAtlasError(f"'{path}' holds no list of rows; `longatlas results export` writes one")
    return found


_READERS: dict[str, Reader] = {"csv": _read_csv, "json": _read_json, "parquet": _read_parquet}


def _checked(row: Mapping[str, Any], place: str) -> dict[str, Any]:
    """A row with every column of its right type, or an error that names the column."""
    unknown = set(row) - set(FLAT)
    if unknown:
        name = min(unknown).encode(errors="backslashreplace").decode()
        raise LongAtlasError(f"{place}: {unknown_name('column', name, FLAT)}")
    made = {name: default for name, default in _OPTIONAL.items() if row.get(name) is None} | {
        name: value for name, value in row.items() if value is not None or name in ("value", "low", "high")
    }
    for name in FLAT:
        if name not in _MADE_HERE:
            made[name] = _value(name, made.get(name), place)
    _check_words(made, place)
    return {name: made[name] for name in FLAT if name not in _MADE_HERE}


def _value(name: str, value: Any, place: str) -> Any:
    if name in ("value", "low", "high") and (value is None or (isinstance(value, float) and math.isnan(value))):
        return None
    if name in JSON_COLUMNS:
        return _json_value(name, value, place)
    kind: Any = int if name in _INTEGERS else (int, float) if name in _NUMBERS else str
    if isinstance(value, str):
        _check_unicode(name, value, place)
    if isinstance(value, float) and name in _INTEGERS and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, kind):
        words = "a whole number" if name in _INTEGERS else "a number" if name in _NUMBERS else "text"
        raise LongAtlasError(f"{place}: {name} is {value!r}; expected {words}")
    if name in _INTEGERS and not 0 <= value < 2**63:
        raise LongAtlasError(f"{place}: {name} is {value}; expected a whole number from 0 up to 2^63")
    if name in ("seconds", "created") and not 0 <= value <= time.time() + DAY:
        what = "seconds since 1970, not in the future" if name == "created" else "seconds that a cell took"
        raise LongAtlasError(f"{place}: {name} is {value}; expected {what}")
    return float(value) if name in _NUMBERS else value


def _json_value(name: str, value: Any, place: str) -> Any:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise LongAtlasError(f"{place}: {name} is {value[:60]!r}; expected JSON") from None
    kind = list if name == "samples" else dict
    numbers = name != "samples" or (isinstance(value, list) and all(type(x) in (int, float) for x in value))
    if not isinstance(value, kind) or not numbers:
        raise LongAtlasError(
            f"{place}: {name} is {value!r}; expected {'a list of numbers' if kind is list else 'an object'}"
        )
    if kind is dict:
        _check_unicode(name, json.dumps(value, ensure_ascii=False), place)
    return value


def _check_unicode(name: str, text: str, place: str) -> None:
    r"""No database takes half of a character, which JSON can write as \ud800."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])
        raise LongAtlasError(f"{place}: {name} holds {half}, half of a character; expected Unicode text") from None


def _check_words(row: Mapping[str, Any], place: str) -> None:
    shaped = row["measure"] != "quality"
    known = {"measure": MEASURES, "status": STATUSES, "device": DEVICES, "dtype": DTYPES}
    if shaped:
        known |= {"phase": PHASES, "level": ("", *LEVELS), "policy": ("", *POLICIES)}
    for name, words in known.items():
        if row[name] not in words:
            raise LongAtlasError(f"{place}: {unknown_name(name, row[name], words)}")
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
    for name in ("batch", "heads", "head_size", *(name for name in ("kv_heads", "layers") if name in case)):
        value = case.get(name)
        most = MOST_LAYERS if name == "layers" else 2**31
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise LongAtlasError(f"{place}: case has {name} {value!r}; expected a whole number from 1 to {most}")


def _records(rows: Rows, origin: str) -> Iterator[Record]:
    shared = ("method", "options", "impl", "measure", "phase", "level", "policy", "seed", "machine", "device")
    more = ("dtype", "threads", "case", "source", "versions", "seconds")
    order = {key: number for number, key in reversed(list(enumerate(row["cell"] for row in rows)))}
    for key, group in groupby(sorted(rows, key=lambda row: order[row["cell"]]), key=lambda row: row["cell"]):
        found = list(group)
        first = found[0]
        for name in (*shared, *more):
            if any(row[name] != first[name] for row in found):
                raise LongAtlasError(f"cell '{key}' has rows that differ in {name}; all rows of a cell are of one run")
        values = ("metric", "value", "unit", "low", "high", "status", "reason", "n", "T", "samples")
        yield Record(
            key=key,
            **{name: first[name] for name in (*shared, *more)},
            T=first["T"] if first["measure"] != "quality" else 0,
            finished=first["created"],
            origin=origin,
            rows=[{name: row[name] for name in values} for row in found],
        )
