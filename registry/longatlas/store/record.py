"""A finished cell as stores and files take it. Nothing here needs a database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from longatlas.columns import COLUMNS, REQUIRED, of_tables

# A worker's row may leave these out.
ROW_DEFAULTS = {name: COLUMNS[name].default for name in of_tables("rows") if COLUMNS[name].default is not REQUIRED}


@dataclass(frozen=True)
class Record:
    """A finished cell as the store takes it: what it was, how it was measured, and its rows."""

    key: str
    method: str
    options: Mapping[str, Any]
    impl: str
    measure: str
    phase: str
    level: str
    policy: str
    T: int
    seed: int
    machine: str
    device: str
    dtype: str
    threads: int
    case: Mapping[str, Any]
    source: str
    versions: Mapping[str, Any]
    finished: float
    seconds: float
    rows: Sequence[Mapping[str, Any]]
    origin: str = ""

    @property
    def status(self) -> str:
        return str(self.rows[0].get("status", "ok"))

    def flat(self) -> list[dict[str, Any]]:
        """Its rows as an export has them: all that belongs to the cell stands in each."""
        shared = {field.name: getattr(self, field.name) for field in fields(self)}
        own = {"cell": shared.pop("key"), "created": shared.pop("finished")}
        rows = shared.pop("rows")
        del shared["origin"]
        return [{**own, **shared, **ROW_DEFAULTS, **row} for row in rows]
