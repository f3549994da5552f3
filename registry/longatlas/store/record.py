"""A finished cell as stores and files take it. Nothing here needs a database."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from longatlas.columns import COLUMNS, REQUIRED, of_tables
from longatlas.words import OK

# A worker's row may leave these out.
ROW_DEFAULTS = {name: COLUMNS[name].default for name in of_tables("rows") if COLUMNS[name].default is not REQUIRED}


@dataclass(frozen=True)
class Record:
    """A finished cell as the store takes it.

    facts   by the columns of its setting, its series and itself (longatlas.columns)
    T       of rows that have none of their own
    origin  where it comes from; "" = it was measured into this store
    """

    facts: Mapping[str, Any]
    T: int
    rows: Sequence[Mapping[str, Any]]
    origin: str = ""

    @property
    def key(self) -> str:
        return str(self.facts["cell"])

    @property
    def status(self) -> str:
        return str(self.rows[0].get("status", OK))

    def stored(self, table: str) -> dict[str, Any]:
        """What a table holds of it."""
        columns = (COLUMNS[name] for name in of_tables(table))
        values = ((column, self.facts[column.name]) for column in columns)
        return {c.stored or c.name: canonical(value) if c.is_json else value for c, value in values}

    def flat(self) -> list[dict[str, Any]]:
        """Its rows as an export has them: all that belongs to the cell stands in each."""
        return [{**self.facts, "T": self.T, **ROW_DEFAULTS, **row} for row in self.rows]


def canonical(value: Any) -> str:
    """JSON in one spelling, so that equal things compare equal."""
    return json.dumps(value, sort_keys=True)
