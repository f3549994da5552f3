"""Where the two sides of a comparison come from: a store, a file of rows, or the baseline that is shipped."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from longatlas.errors import LongAtlasError

if TYPE_CHECKING:
    import pandas as pd

SHIPPED = "shipped"
SHIPPED_FILE = "cpu-2-cores.parquet"
_FILES = (".csv", ".json", ".parquet")


@dataclass(frozen=True)
class Side:
    """Flat rows, the newest of each measurement, and what they are called."""

    name: str
    rows: pd.DataFrame
    is_shipped: bool = False


def load_side(where: str | None) -> Side:
    """Read a side.

    where  a store (path or URL), a .csv, .json or .parquet file of flat rows or of pytest-benchmark's saved runs, the
           word `shipped`, or None for the current store

    Raises LongAtlasError for what cannot be read.
    """
    if where == SHIPPED:
        with as_file(files("longatlas") / "baselines" / SHIPPED_FILE) as path:
            return Side("the shipped baseline", _from_file(path), is_shipped=True)
    if where is not None and "://" not in where and Path(where).suffix.lower() in _FILES:
        return side_of(where, _from_file(Path(where)))
    from longatlas.store import open_to_read

    store = open_to_read(where)
    return side_of(store.name, store.rows(latest=True))


def side_of(name: str, frame: pd.DataFrame) -> Side:
    """A side from rows at hand. Raises LongAtlasError when there are none."""
    if frame.empty:
        raise LongAtlasError(f"{name} holds no results; `longatlas run` or `longatlas demo` makes some")
    return Side(name, frame)


def _from_file(path: Path) -> pd.DataFrame:
    import pandas as pd

    from longatlas.compare.identity import newest
    from longatlas.store.transfer import read_rows

    return newest(pd.DataFrame(read_rows(path)))
