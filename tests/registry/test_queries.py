"""What the dashboard asks the store gives the same as reading all rows and choosing among them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner

from longatlas.cli.results import results
from longatlas.harness.cells import expand
from longatlas.harness.plan import Plan
from longatlas.store import Store, queries

PLAN = Plan(methods=("vanilla", "alibi", "sliding_window:window=8"), measure=("speed", "memory"), lengths=(8, 16, 32))
CELLS = expand(PLAN)


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    where = str(tmp_path / "s.sqlite") if request.param == "sqlite" else request.getfixturevalue("postgres_store")
    made = Store(where)
    for number, cell in enumerate(CELLS):
        rows: list[dict[str, Any]] = [{"metric": "a", "value": 1.0 * number}, {"metric": "b", "value": 2.0}]
        made.save(cell.record(rows if number % 7 else [{"status": "oom", "reason": "no"}], 1.0))
    for cell in CELLS[:4]:
        made.save(replace(cell, source="changed", dtype="float64").record([{"metric": "a", "value": 5.0}], 1.0))
        made.save(replace(cell, source="again").record([{"metric": "a", "value": 6.0}], 1.0))
    yield made
    made.engine.dispose()


def chosen(frame: pd.DataFrame, filters: dict[str, list[str]]) -> pd.DataFrame:
    for name, wanted in filters.items():
        frame = frame[frame[name].isin(wanted)] if wanted else frame
    return frame


FILTERS: list[dict[str, list[str]]] = [
    {},
    {"method": ["vanilla"]},
    {"method": ["vanilla", "alibi"], "phase": ["train"]},
    {"status": ["oom"]},
    {"status": ["ok", "oom"], "measure": ["speed"]},
    {"dtype": ["float64"]},
    {"method": ["nothing"]},
    {"level": ["decoder"], "phase": []},
]


@pytest.mark.parametrize("filters", FILTERS, ids=[",".join(f) or "none" for f in FILTERS])
@pytest.mark.parametrize("latest", [False, True])
def test_pages_and_counts(store: Store, filters: dict[str, list[str]], latest: bool) -> None:
    expected = chosen(store.rows(latest=latest), filters).sort_values("id", ascending=False)
    assert queries.count(store, filters, latest=latest) == len(expected)
    pages = [queries.page(store, filters, latest=latest, number=number, size=40) for number in range(4)]
    assert list(pd.concat(pages)["id"]) == list(expected["id"])[:160]
    assert list(pages[0].columns) == list(expected.columns)


def test_values_of_filters(store: Store) -> None:
    frame = store.rows()
    for name in queries.FILTERS:
        assert queries.values(store, name) == sorted(set(frame[name])), name


def test_counts_and_methods(store: Store) -> None:
    frame = store.rows()
    assert queries.counts(store) == (len(frame), frame["cell"].nunique(), 3)
    found = queries.methods(store)
    assert list(found["method"]) == ["vanilla", "alibi", "sliding_window:window=8"]
    assert list(found["cells"]) == [frame[frame["method"] == name]["cell"].nunique() for name in found["method"]]


def test_methods_that_this_machine_measured(store: Store) -> None:
    frame = store.rows()
    machine = str(frame["machine"].iloc[0])
    good = frame[frame["status"] == "ok"]
    timed = set(good.loc[good["measure"] == "speed", "method"])
    found = queries.methods_on(store, [machine], queries.current_sources(store))
    assert set(found["method"]) == set(good["method"])
    assert list(found["checked"]) == [name in timed for name in found["method"]]
    assert queries.methods_on(store, ["another"], ()).empty


def test_metrics_of_a_measure(store: Store) -> None:
    frame = store.rows(measure="speed")
    own = frame[frame["method"].isin(["vanilla", "alibi"])]
    found = queries.metrics(store, ["vanilla", "alibi"], "speed")
    assert set(found.itertuples(index=False, name=None)) == set(zip(own["phase"], own["metric"], strict=True))
    assert {"a", "b", ""} == set(found["metric"])


def test_settings_and_their_rows(store: Store) -> None:
    found = queries.settings(store, ["vanilla", "alibi"], ["speed", "memory"])
    assert sorted(found["dtype"]) == ["float32", "float64"]
    assert list(found["created"]) == sorted(found["created"], reverse=True)
    frame = store.rows(latest=True)
    for _, setting in found.iterrows():
        rows = queries.rows_of(store, ["vanilla", "alibi"], ["speed", "memory"], setting["setting"], setting["level"])
        expected = frame[frame["method"].isin(["vanilla", "alibi"]) & (frame["dtype"] == setting["dtype"])]
        assert list(rows["id"]) == list(expected["id"])
        assert set(rows.columns) == set(expected.columns) - set(queries.NOT_PLOTTED) | {"budget"}
        assert set(rows.loc[rows["measure"] == "speed", "budget"]) <= {PLAN.budget}
        assert rows.loc[rows["measure"] == "memory", "budget"].isna().all()
        assert setting["cells"] == expected["cell"].nunique()
    assert queries.settings(store, ["nothing"], ["speed"]).empty
    assert len(queries.settings(store, ["vanilla"], ["speed"], phase="train")) == 2


def test_past_gives_the_timings_in_seconds_and_the_peaks(store: Store) -> None:
    for cell in CELLS:
        if cell.method == "alibi" and cell.T == 8:
            timing = {"metric": f"{cell.phase}_ms", "value": 2.0, "low": 1.0, "high": 4.0, "n": 7}
            store.save(
                cell.record([timing] if cell.measure == "speed" else [{"metric": "peak_bytes", "value": 64.0}], 3.0)
            )
    found = queries.past(store, ["alibi"])
    found = found[(found["T"] == 8) & (found["dtype"] == "float32")]
    expected = {"speed": (0.002, 0.001, 0.004, 7.0, None), "memory": (None, None, None, None, 64.0)}
    for measure, values in expected.items():
        of = found[found["measure"] == measure]
        assert set(of["phase"]) == {"train", "prefill", "decode"}
        for name, value in zip(("median", "low", "high", "n", "peak"), values, strict=True):
            assert (of[name].isna() if value is None else of[name] == value).all(), (measure, name)
    assert set(found["seconds"]) == {3.0}


def test_rows_of_changed_code_are_stale(store: Store) -> None:
    sources = queries.current_sources(store)
    frame = queries.with_stale(store.rows(), sources)
    assert set(frame.loc[frame["stale"], "source"]) == {"changed", "again"}
    assert set(frame.loc[~frame["stale"], "source"]) <= sources
    today = queries.page(store, {}, sources=sources, size=10_000)
    assert len(today) == queries.count(store, {}, sources=sources) == int((~frame["stale"]).sum()) < len(frame)
    assert set(today["source"]) <= sources


def test_results_of_code_that_is_gone_are_readable_and_stale(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "gone.sqlite"))
    cell = replace(expand(Plan(("vanilla",), lengths=(8,), measure=("speed",)))[0], method="no_such_method")
    store.save(cell.record([{"metric": "train_ms", "value": 1.0}], 1.0))
    done = CliRunner().invoke(results, ["--store", store.name, "--method", "no_such_method", "--json"])
    assert [(row["value"], row["stale"]) for row in json.loads(done.stdout)] == [(1.0, True)]
    told = CliRunner().invoke(results, ["--store", store.name]).stdout
    assert "Stale, measured by code that has changed since or is not installed any more: " in told
    assert "no_such_method (stale)" in told
