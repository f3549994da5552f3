"""Stores of schema version 1 are brought to this one, whole or not at all."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pace
import pytest

from longatlas import LongAtlasError
from longatlas.harness import jobs
from longatlas.harness.cells import expand
from longatlas.harness.plan import Plan
from longatlas.store import Store, open_to_read, queries
from longatlas.store.schema import SCHEMA_VERSION

VERSION_1 = """
CREATE TABLE meta (key VARCHAR NOT NULL, value VARCHAR, PRIMARY KEY (key));
CREATE TABLE cells (key VARCHAR NOT NULL, status VARCHAR NOT NULL, finished FLOAT NOT NULL, seconds FLOAT NOT NULL,
    PRIMARY KEY (key));
CREATE TABLE rows (id INTEGER NOT NULL, cell VARCHAR NOT NULL, method VARCHAR NOT NULL, options VARCHAR NOT NULL,
    impl VARCHAR NOT NULL, measure VARCHAR NOT NULL, phase VARCHAR NOT NULL, "T" INTEGER NOT NULL,
    metric VARCHAR NOT NULL, value FLOAT, unit VARCHAR NOT NULL, low FLOAT, high FLOAT, status VARCHAR NOT NULL,
    reason VARCHAR NOT NULL, device VARCHAR NOT NULL, dtype VARCHAR NOT NULL, "case" VARCHAR NOT NULL,
    seed INTEGER NOT NULL, threads INTEGER NOT NULL, n INTEGER NOT NULL, samples VARCHAR NOT NULL,
    machine VARCHAR NOT NULL, versions VARCHAR NOT NULL, source VARCHAR NOT NULL, created FLOAT NOT NULL,
    PRIMARY KEY (id));
CREATE INDEX ix_rows_cell ON rows (cell);
CREATE INDEX ix_rows_method ON rows (method);
CREATE TABLE jobs (id INTEGER NOT NULL, plan VARCHAR NOT NULL, plan_hash VARCHAR NOT NULL, status VARCHAR NOT NULL,
    done INTEGER NOT NULL, total INTEGER NOT NULL, current VARCHAR NOT NULL, error VARCHAR NOT NULL,
    cancel INTEGER NOT NULL, pid INTEGER, pid_started FLOAT, created FLOAT NOT NULL, started FLOAT, finished FLOAT,
    PRIMARY KEY (id));
INSERT INTO meta VALUES ('version', '1');
INSERT INTO jobs VALUES (1, 'methods: [vanilla]', 'abc', 'done', 3, 3, '', '', 0, NULL, NULL, 1.0, 1.5, 2.5);
"""
CASE = json.dumps({"layers": 1, "batch": 2, "heads": 4, "head_size": 8})
# cell, measure, phase, T of its rows, metrics, finished
CELLS = [
    ("a", "speed", "prefill", 8, ("prefill_ms", "tokens_per_s"), 10.0),
    ("b", "memory", "prefill", 8, ("peak_bytes",), 11.0),
    ("c", "quality", "mqar", 64, ("accuracy",), 12.0),
    ("d", "speed", "prefill", 8, ("prefill_ms", "tokens_per_s"), 13.0),
]


def version_1(path: Path, copies: int = 1) -> None:
    with sqlite3.connect(path) as connection:
        connection.executescript(VERSION_1)
        for copy in range(copies):
            for key, measure, phase, length, metrics, finished in CELLS:
                name = key if copy == 0 else f"{key}{copy}"
                connection.execute("INSERT INTO cells VALUES (?, 'ok', ?, 1.5)", (name, finished))
                for metric in metrics:
                    values = (
                        *(name, "vanilla", "{}", "torch", measure, phase, length, metric, 0.1 + 0.2, "ms", 0.25, 0.5),
                        *("ok", "", "cpu", "float32", CASE if measure != "quality" else '{"preset": "quick"}'),
                        *(copy, 2, 3, "[1.5, 2.0]" if metric == "prefill_ms" else "[]", "a machine"),
                        *('{"torch": "2.13"}', "source", finished),
                    )
                    marks = ", ".join("?" * len(values))
                    connection.execute(f"INSERT INTO rows VALUES (NULL, {marks})", values)
    connection.close()


def test_a_store_of_version_1_is_brought_to_this_one(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    version_1(path)
    store = Store(str(path))
    frame = store.rows(samples=True)
    assert list(frame["cell"]) == ["a", "a", "b", "c", "d", "d"]
    assert list(frame["metric"][:2]) == ["prefill_ms", "tokens_per_s"]
    first = frame.iloc[0]
    assert (first["value"], first["low"], first["high"]) == (0.1 + 0.2, 0.25, 0.5)
    assert (first["level"], first["policy"], first["T"]) == ("decoder", "wall", 8)
    assert (first["case"], first["samples"]) == (json.loads(CASE), [1.5, 2.0])
    assert (first["versions"], first["machine"], first["created"]) == ({"torch": "2.13"}, "a machine", 10.0)
    memory, quality = frame.iloc[2], frame.iloc[3]
    assert (memory["level"], memory["policy"]) == ("decoder", "")
    assert (quality["level"], quality["policy"], quality["T"]) == ("", "", 64)
    assert set(store.rows(latest=True)["cell"]) == {"b", "c", "d"}, "a newer cell has replaced the first"
    assert store.finished(["a", "d", "x"]) == {"a": "ok", "d": "ok"}
    with sqlite3.connect(path) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert connection.execute("SELECT status FROM jobs").fetchall() == [("done",)]
        assert connection.execute("SELECT value FROM meta WHERE key = 'version'").fetchone() == (str(SCHEMA_VERSION),)
    assert not {"rows_1", "cells_1"} & names
    again = Store(str(path)).rows(samples=True)
    assert again.equals(frame)


def test_a_migration_that_is_killed_leaves_the_old_store(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    version_1(path, copies=50)
    code = f"""
import os
from longatlas.store import migrations, Store
put = migrations.put
def die_half_way(connection, records):
    put(connection, [record for number, record in enumerate(records) if number < 100])
    os.kill(os.getpid(), 9)
migrations.put = die_half_way
Store({str(path)!r})
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=pace.seconds(60)).returncode == -9
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT value FROM meta WHERE key = 'version'").fetchone() == ("1",)
        assert connection.execute("SELECT count(*) FROM rows").fetchone() == (300,)
    connection.close()
    assert len(Store(str(path)).rows()) == 300


def test_an_old_store_that_may_not_be_changed_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    version_1(path)
    before = path.read_bytes()
    with pytest.raises(LongAtlasError, match="has schema version 1, and it may not be changed here"):
        Store(str(path), read_only=True)
    assert path.read_bytes() == before


def test_who_only_wants_to_read_gets_it_migrated_where_that_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    version_1(path)
    store = open_to_read(str(path))
    assert store.read_only
    assert len(store.rows()) == 6


def test_two_processes_may_migrate_at_once(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    version_1(path, copies=20)
    code = f"from longatlas.store import Store; print(len(Store({str(path)!r}).rows()))"
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=pace.seconds(60))[0].strip() for process in both] == ["120", "120"]


def test_jobs_of_version_2_stay_and_can_be_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    store = Store(str(path))
    number = jobs.submit(store, Plan(methods=("vanilla",)), start=False).id
    store.engine.dispose()
    with closing(sqlite3.connect(path)) as connection:
        for column in ("retry", "host"):
            connection.execute(f"ALTER TABLE jobs DROP COLUMN {column}")
        connection.execute("UPDATE meta SET value = '2' WHERE key = 'version'")
        connection.commit()
    reopened = Store(str(path))
    assert [(job.id, job.retry) for job in jobs.jobs(reopened)] == [(number, False)]
    jobs.cancel(reopened, number)
    assert jobs.retry(reopened, number, start=False).retry


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_results_of_earlier_versions_are_shown_as_of_older_code(tmp_path: Path, version: int) -> None:
    path = tmp_path / "store.sqlite"
    if version == 1:
        version_1(path)
    else:
        store = Store(str(path))
        store.save(expand(Plan(("vanilla",), measure=("speed",), lengths=(8,)))[0].record([{"value": 1.0}], 1.0))
        store.engine.dispose()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("UPDATE meta SET value = ? WHERE key = 'version'", (str(version),))
            connection.execute("DROP INDEX ix_cells_source")
            connection.commit()
    store = Store(str(path))
    frame = queries.with_stale(store.rows(), queries.current_sources(store))
    assert len(frame)
    assert frame["stale"].all()
    assert frame["source"].str.startswith("older-").all()
    assert frame["value"].notna().all()
