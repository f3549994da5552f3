"""A store with many made rows."""

from __future__ import annotations

import itertools
import os
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from longatlas.harness.cells import Cell, expand
from longatlas.harness.plan import Plan
from longatlas.store import Store
from longatlas.store.writing import mark_latest, put

ROWS = int(os.environ.get("LONGATLAS_ROWS", "1000000"))
METHODS = ("vanilla", "alibi", "yarn", "sliding_window", "lightning_attention2", "infini_attention", "transformer_xl")
PER_CELL = ("{phase}_ms", "tokens_per_s", "compile_ms", "rms_error", "peak_bytes")
LENGTHS = (256, 512, 1024, 2048, 4096)
QUALITY = {"language_model": ("bits_per_byte",), "passkey": ("accuracy", *(f"accuracy_depth_{i}" for i in range(10)))}


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    made = Store(str(tmp_path_factory.mktemp("large") / "store.sqlite"))
    _fill(made)
    yield made
    made.engine.dispose()


def _fill(store: Store) -> None:
    """Every series through the store's own code, then the rest by copying cells with other seeds and keys."""
    plan = Plan(methods=METHODS, lengths=LENGTHS, tasks=tuple(QUALITY), threads=1)
    settings = itertools.product(range(1, 9), ("float32", "bfloat16"))
    cells = [c for t, d in settings for c in expand(plan.with_values({"threads": t, "dtype": d}))]
    failing = [{"status": "oom", "reason": "out of memory"}]
    with store.writing() as connection:
        put(connection, [cell.record(_rows(cell) if n % 50 else failing, 1.0) for n, cell in enumerate(cells)])
    store.engine.dispose()
    with sqlite3.connect(store.name) as connection:
        first, last = connection.execute("SELECT min(id), max(id) FROM cells").fetchone()
        (written,) = connection.execute("SELECT count(*) FROM rows").fetchone()
        copies = -(-ROWS // written) - 1
        for copy in range(1, copies + 1):
            shift = copy * (last - first + 1)
            connection.execute(
                f"INSERT INTO cells SELECT id + {shift}, key || '-{copy}', series, T, seed + {copy // 3}, status, "
                f"finished + {copy}, seconds, source, versions, origin, 1 FROM cells WHERE id <= {last}"
            )
            connection.execute(
                f"INSERT INTO rows SELECT NULL, cell + {shift}, series, T, metric, value + {copy}, unit, low, high, "
                f"status, reason, n FROM rows WHERE cell <= {last}"
            )
    connection.close()
    with store.writing() as connection:
        mark_latest(connection)


def _rows(cell: Cell) -> list[dict[str, Any]]:
    if cell.measure != "quality":
        shared = {"unit": "ms", "value": 1.5, "low": 1.0, "high": 2.0, "n": 9}
        return [{"metric": metric.format(phase=cell.phase), **shared} for metric in PER_CELL]
    shared = {"unit": "share", "value": 0.5, "low": 0.3, "high": 0.7, "n": 9}
    return [{"metric": metric, "T": length, **shared} for metric in QUALITY[cell.phase] for length in LENGTHS]
