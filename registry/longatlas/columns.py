"""The columns of a flat row. Everything about a column stands here: tables, files and checks follow. Light."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from longatlas.errors import LongAtlasError
from longatlas.measures import MEASURES
from longatlas.rules import Choices, Rule, WrongValueError
from longatlas.words import DEVICES, DTYPES, OK, STATUSES

DAY = 86_400.0
LARGEST = 2**63 - 1
REQUIRED: Any = object()


@dataclass(frozen=True)
class Column:
    """One column.

    kind     int, float or str; dict for an object and list for numbers, which a database and a CSV file hold as JSON
    table    where it stands in the store
    stored   its name there; "" = its own
    default  of a row that lacks it; None = it may be empty
    told     a file must have it, though a worker may leave it out
    choices  the allowed texts
    past     in words, for a number of seconds that cannot lie in the future
    ours     it is no part of what was measured: the store that takes a row gives it anew
    unique, index  of its table
    """

    name: str
    kind: type
    table: str
    stored: str = ""
    default: Any = REQUIRED
    told: bool = False
    choices: Choices = ()
    past: str = ""
    ours: bool = False
    unique: bool = False
    index: bool = False

    @property
    def is_json(self) -> bool:
        """Whether it is held as JSON text."""
        return self.kind in (dict, list)

    def check(self, value: Any) -> Any:
        """The value of a file as the store takes it. Raises WrongValueError, which begins after the column's name."""
        if self.default is None and (value is None or value != value):
            return None
        if value is None and self.default is not REQUIRED and not self.told:
            value = self.default
        if isinstance(value, str):
            _check_unicode(value)
        return self._json(value) if self.is_json else self._plain(value)

    def _plain(self, value: Any) -> Any:
        if self.kind is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        least, most = (0, LARGEST) if self.kind is int else (None, None)
        value = Rule(self.kind, least, most, self.choices).check(value)
        if self.past and not 0 <= value <= time.time() + DAY:
            raise WrongValueError(f"is {value}; expected {self.past}")
        return value

    def _json(self, value: Any) -> Any:
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                raise WrongValueError(f"is {value[:60]!r}; expected JSON") from None
        value = list(value) if isinstance(value, tuple) else value
        numbers = self.kind is dict or (isinstance(value, list) and all(type(x) in (int, float) for x in value))
        if not isinstance(value, self.kind) or not numbers:
            raise WrongValueError(f"is {value!r}; expected {'an object' if self.kind is dict else 'a list of numbers'}")
        _check_unicode(json.dumps(value, ensure_ascii=False))
        return value


def _check_unicode(text: str) -> None:
    r"""No database takes half of a character, which JSON can write as \ud800."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])
        raise WrongValueError(f"holds {half}, half of a character; expected Unicode text") from None


COLUMNS = {
    column.name: column
    for column in (
        Column("id", int, "rows", ours=True),
        Column("cell", str, "cells", stored="key", unique=True),
        Column("method", str, "series", index=True),
        Column("options", dict, "series"),
        Column("impl", str, "series"),
        Column("measure", str, "series", choices=lambda: MEASURES),
        Column("phase", str, "series"),
        Column("level", str, "series", default=""),
        Column("policy", str, "series", default=""),
        Column("T", int, "rows"),
        Column("metric", str, "rows", default="", told=True),
        Column("value", float, "rows", default=None),
        Column("unit", str, "rows", default="", told=True),
        Column("low", float, "rows", default=None),
        Column("high", float, "rows", default=None),
        Column("status", str, "rows", default=OK, told=True, choices=STATUSES),
        Column("reason", str, "rows", default=""),
        Column("device", str, "settings", choices=DEVICES),
        Column("dtype", str, "settings", choices=DTYPES),
        Column("case", dict, "settings"),
        Column("seed", int, "cells"),
        Column("threads", int, "settings"),
        Column("n", int, "rows", default=0),
        Column("samples", list, "samples", default=()),
        Column("machine", str, "settings"),
        Column("versions", dict, "cells"),
        Column("source", str, "cells"),
        Column("origin", str, "cells", default="", ours=True),
        Column("seconds", float, "cells", default=0.0, past="seconds that a cell took"),
        Column("created", float, "cells", stored="finished", past="seconds since 1970, not in the future"),
    )
}
JSON_COLUMNS = tuple(column.name for column in COLUMNS.values() if column.is_json)


def of_tables(*tables: str) -> tuple[str, ...]:
    """The columns that stand in these tables, without those that the store gives itself."""
    return tuple(column.name for column in COLUMNS.values() if column.table in tables and not column.ours)


def checked(name: str, value: Any, place: str) -> Any:
    """A column's value in a file as the store takes it. Raises LongAtlasError, which begins with `place`."""
    try:
        return COLUMNS[name].check(value)
    except WrongValueError as error:
        raise LongAtlasError(f"{place}: {name} {error}") from None
