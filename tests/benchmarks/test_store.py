"""A large store answers each of the dashboard's queries; rows are made, by default a million of them.

LONGATLAS_ROWS=1000000 pytest tests/benchmarks/test_store.py --benchmark-only
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from large_store import METHODS

from longatlas.store import Store, queries

TWO = ("vanilla", "sliding_window")
SHAPED = ("speed", "memory")
QUESTIONS: dict[str, Callable[[Store], Any]] = {
    "last row": lambda store: store.state(),
    "counts": queries.counts,
    "methods": queries.methods,
    "settings of two methods": lambda store: queries.settings(store, TWO, SHAPED),
    "settings of all methods": lambda store: queries.settings(store, METHODS, SHAPED),
    "rows of two methods in a setting": lambda store: queries.rows_of(store, TWO, SHAPED, 1, "decoder"),
    "rows of all methods in a setting": lambda store: queries.rows_of(store, METHODS, SHAPED, 1, "decoder"),
    "tasks": lambda store: queries.tasks(store, METHODS),
    "values of method": lambda store: queries.values(store, "method"),
    "values of status": lambda store: queries.values(store, "status"),
    "first page": lambda store: queries.page(store, {}),
    "page 1000": lambda store: queries.page(store, {}, number=1000),
    "page of a method": lambda store: queries.page(store, {"method": ["vanilla"]}),
    "page of most methods": lambda store: queries.page(store, {"method": list(METHODS[1:])}),
    "page of failures": lambda store: queries.page(store, {"status": ["oom"]}),
    "page of the newest": lambda store: queries.page(store, {}, latest=True),
    "count of all": lambda store: queries.count(store, {}),
    "count of a method": lambda store: queries.count(store, {"method": ["vanilla"]}),
    "count of the newest": lambda store: queries.count(store, {}, latest=True),
    "count of failures": lambda store: queries.count(store, {"status": ["oom"]}),
    "finished cells of a plan": lambda store: store.finished([f"key{n}" for n in range(500)]),
}


@pytest.mark.benchmark(group="store")
@pytest.mark.parametrize("question", QUESTIONS)
def test_query(benchmark: Any, store: Store, question: str) -> None:
    benchmark.name = question
    benchmark.extra_info["rows"] = queries.counts(store)[0]
    benchmark.pedantic(QUESTIONS[question], args=(store,), rounds=5, warmup_rounds=1)
    assert Path(store.name).exists()
