"""Files that a visitor uploads: rows, checked as `longatlas results import` checks them, or an error that names why."""

from __future__ import annotations

import tempfile
from pathlib import Path, PurePath
from typing import Any

from longatlas.errors import LongAtlasError
from longatlas.store.transfer import read_rows
from longatlas_dashboard import safe

MOST_ROWS = 100_000


def rows(name: str, content: bytes) -> list[dict[str, Any]]:
    """The checked rows of an uploaded file. Raises LongAtlasError that names the file, the row and the column."""
    suffix = PurePath(name).suffix.lower()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"upload{suffix}"
        path.write_bytes(content)
        try:
            return read_rows(path, most=MOST_ROWS)
        except LongAtlasError as error:
            raise LongAtlasError(str(error).replace(str(path), safe.cut(name, 80))) from None
