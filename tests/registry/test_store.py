"""The store: what it keeps, and files that are no store."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pace
import pytest
import sqlalchemy as sa

from longatlas import LongAtlasError
from longatlas.harness import jobs
from longatlas.harness.cells import Cell, expand
from longatlas.harness.plan import Plan
from longatlas.store import Store, store_url
from longatlas.store.prune import prune, selection
from longatlas.store.schema import META, SCHEMA_VERSION
from longatlas.store.writing import mark_latest, put

CONTRACT = {
    *("method", "options", "impl", "measure", "phase", "T", "metric", "value", "unit", "low", "high"),
    *("status", "reason", "device", "dtype"),
}
PLAN = Plan(methods=("vanilla", "sliding_window:window=8", "yarn+sliding_window"), measure=("speed",), lengths=(8, 16))
CELLS = expand(PLAN)
ROWS: list[dict[str, Any]] = [
    {"metric": "train_ms", "unit": "ms", "value": 0.1 + 0.2, "low": 0.1, "high": 1e-13, "n": 3, "samples": [1.5, 2.0]},
    {"metric": "tokens_per_s", "unit": "tokens/s", "value": 9.0},
]


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """The same contract on a file and on a server."""
    if request.param == "sqlite":
        where = str(tmp_path / "deep" / "store.sqlite")
    else:
        where = request.getfixturevalue("postgres_store")
    opened = Store(where)
    yield opened
    opened.engine.dispose()


def fill(store: Store, cells: list[Cell] = CELLS) -> Store:
    for cell in cells:
        store.save(cell.record(ROWS, 1.0))
    return store


def snapshot(path: Path) -> bytes:
    return path.read_bytes()


def test_rows_have_all_columns_and_exact_values(store: Store) -> None:
    frame = fill(store, CELLS[:1]).rows(samples=True)
    assert set(frame.columns) >= CONTRACT
    first = frame.iloc[0]
    assert (first["method"], first["phase"], first["T"], first["device"], first["dtype"]) == (
        "vanilla",
        "train",
        8,
        "cpu",
        "float32",
    )
    assert (first["value"], first["low"], first["high"]) == (0.1 + 0.2, 0.1, 1e-13)
    assert list(frame["samples"]) == [[1.5, 2.0], []]
    assert first["versions"]["torch"]
    assert first["case"] == CELLS[0].case
    assert "samples" not in store.rows().columns


def test_options_are_all_there_with_their_values(store: Store) -> None:
    frame = fill(store).rows()
    options = dict(zip(frame["method"], frame["options"], strict=True))
    assert options["sliding_window:window=8"]["window"] == 8
    assert {"yarn.factor", "sliding_window.window"} <= options["yarn+sliding_window"].keys()


def test_select_by_method_measure_phase_and_keys(store: Store) -> None:
    fill(store)
    assert set(store.rows(methods=["sliding_window"])["method"]) == {"sliding_window:window=8"}
    assert set(store.rows(methods=["sliding_window:window=8", "vanilla"])["method"]) == {
        "sliding_window:window=8",
        "vanilla",
    }
    assert store.rows(methods=["sliding_window:window=9"]).empty
    assert set(store.rows(methods=["yarn+sliding_window"])["method"]) == {"yarn+sliding_window"}
    assert set(store.rows(phase="decode")["phase"]) == {"decode"}
    assert store.rows(measure="quality").empty
    assert set(store.rows(keys=[CELLS[0].key])["cell"]) == {CELLS[0].key}
    assert store.rows(keys=[]).empty


def test_rows_of_many_keys_keep_their_order(store: Store) -> None:
    fill(store)
    keys = [f"none{i}" for i in range(1200)] + [cell.key for cell in CELLS]
    assert store.rows(keys=keys)["id"].is_monotonic_increasing
    assert len(store.finished(keys)) == len(CELLS)


def test_saving_again_replaces(store: Store) -> None:
    fill(store, CELLS[:1])
    last = store.state()
    store.save(CELLS[0].record([{"status": "crash", "reason": "broke"}], 1.0))
    frame = store.rows()
    assert list(frame["status"]) == ["crash"]
    assert frame["value"].isna().all()
    assert store.state() != last
    assert store.finished([CELLS[0].key]) == {CELLS[0].key: "crash"}


def test_a_cell_is_saved_whole_or_not_at_all(store: Store) -> None:
    fill(store, CELLS[:1])
    with pytest.raises(LongAtlasError):
        store.save(CELLS[0].record([{"status": None, "reason": "a column that must not be null"}], 1.0))
    assert list(store.rows()["metric"]) == ["train_ms", "tokens_per_s"]


def test_a_timeout_is_not_finished_for_who_gives_more_time(store: Store) -> None:
    store.save(CELLS[0].record([{"status": "timeout", "reason": "not done after 5 s"}], 5.2))
    fill(store, CELLS[1:2])
    keys = [cell.key for cell in CELLS[:2]]
    assert store.finished(keys, timeout=5) == {keys[0]: "timeout", keys[1]: "ok"}
    assert store.finished(keys, timeout=pace.seconds(60)) == {keys[1]: "ok"}


def test_the_state_changes_with_every_row_stored_or_taken_out(store: Store) -> None:
    seen = [store.state()]
    for change in (
        lambda: fill(store, CELLS[:1]),
        lambda: fill(store, CELLS[1:2]),
        lambda: prune(store, selection(method=CELLS[0].method)),
        lambda: fill(store, CELLS[1:2]),
    ):
        change()
        assert store.state() not in seen
        assert store.state() == store.state()
        seen.append(store.state())


def test_environment_names_the_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LONGATLAS_STORE", str(tmp_path / "a.sqlite"))
    assert Store().name == str(tmp_path / "a.sqlite")
    assert Store(str(tmp_path / "b.sqlite")).name == str(tmp_path / "b.sqlite")
    assert store_url("postgresql://u:p@host/db").get_backend_name() == "postgresql"


def test_readers_see_whole_cells_while_one_writes(store: Store) -> None:
    failures: list[str] = []
    done = threading.Event()

    def read() -> None:
        reader = Store(store.name, read_only=True)
        while not done.is_set():
            frame = reader.rows()
            if len(frame) % 2 or set(frame["status"]) - {"ok"}:
                failures.append(f"{len(frame)} rows")

    readers = [threading.Thread(target=read) for _ in range(3)]
    for thread in readers:
        thread.start()
    for _ in range(5):
        fill(store)
    done.set()
    for thread in readers:
        thread.join()
    assert not failures
    assert len(store.rows()) == 2 * len(CELLS)


def test_an_open_write_does_not_stop_readers(store: Store) -> None:
    fill(store, CELLS[:1])
    with store.engine.begin() as connection:
        connection.execute(sa.update(META).values(value="1"))
        assert len(Store(store.name, read_only=True).rows()) == 2


def test_an_open_read_does_not_stop_the_writer(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store.sqlite"))
    fill(store, CELLS[:1])
    with sqlite3.connect(store.name) as reader:
        cursor = reader.execute("select metric from rows")
        cursor.fetchone()
        fill(store, CELLS[1:2])
        assert len(cursor.fetchall()) == 1, "the reader sees what was there when it began"
    assert len(store.rows()) == 4


def test_latest_is_the_newest_of_each_measurement_failed_or_not(store: Store) -> None:
    fill(store)
    changed = [replace(cell, source="changed") for cell in CELLS[:2]]
    store.save(changed[0].record(ROWS, 1.0))
    store.save(changed[1].record([{"status": "crash", "reason": "broke"}], 1.0))
    other_seed = replace(CELLS[2], seed=7)
    store.save(other_seed.record(ROWS, 1.0))
    frame = store.rows(latest=True)
    assert set(frame["cell"]) == {*(c.key for c in CELLS[2:]), *(c.key for c in changed), other_seed.key}
    assert list(frame[frame["cell"] == changed[1].key]["status"]) == ["crash"]
    assert len(store.rows()) == len(frame) + 4


def test_levels_and_policies_are_measurements_of_their_own(store: Store) -> None:
    layer = replace(CELLS[0], level="layer")
    cold = replace(CELLS[0], policy="gpu_cold")
    fill(store, [CELLS[0], layer, cold])
    frame = store.rows(latest=True)
    assert set(zip(frame["level"], frame["policy"], strict=True)) == {
        ("decoder", "wall"),
        ("layer", "wall"),
        ("decoder", "gpu_cold"),
    }


def test_the_newest_is_by_insertion_whatever_the_clock_says(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store, CELLS[:1])
    monkeypatch.setattr("longatlas.store.store.time.time", lambda: 5.0)
    again = replace(CELLS[0], source="changed")
    store.save(again.record(ROWS, 1.0))
    assert set(store.rows(latest=True)["cell"]) == {again.key}


def test_a_row_number_is_never_used_again(store: Store) -> None:
    fill(store, CELLS[:1])
    before = store.rows()["id"].max()
    fill(store, CELLS[:1])
    assert store.rows()["id"].min() > before


def test_facts_are_remembered(store: Store) -> None:
    assert store.fact("peaks") is None
    store.remember("peaks", "1")
    store.remember("peaks", "2")
    assert store.fact("peaks") == "2"


def test_two_writers_do_not_lose_cells(store: Store) -> None:
    halves = [CELLS[::2], CELLS[1::2]]
    url = store.url.render_as_string(hide_password=False) if not store.is_sqlite else store.name
    writers = [threading.Thread(target=fill, args=(Store(url), half)) for half in halves]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    assert set(store.rows()["cell"]) == {cell.key for cell in CELLS}


def test_a_full_disk_keeps_what_is_stored(tmp_path: Path) -> None:
    """A limit on the size of files stands for a disk that is full."""
    store = fill(Store(str(tmp_path / "store.sqlite")), CELLS[:4])
    store.engine.dispose()
    code = """
import resource, sys
from dataclasses import replace
from pathlib import Path
sys.path[:0] = [{here!r}, {tests!r}]
from test_store import CELLS, ROWS, Store
from longatlas import LongAtlasError
store = Store({name!r})
size = max(Path({name!r} + end).stat().st_size for end in ("", "-wal"))
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40_000, size + 40_000))
try:
    for number in range(1000):
        store.save(replace(CELLS[0], seed=number + 1).record(ROWS * 20, 1.0))
except LongAtlasError as error:
    print(error)
"""
    code = code.format(here=str(Path(__file__).parent), tests=str(Path(__file__).parents[1]), name=store.name)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=pace.seconds(120))
    assert "cannot grow" in done.stdout, done.stdout + done.stderr
    assert "what is stored is kept" in done.stdout
    kept = Store(store.name).rows()
    assert set(kept["cell"]) >= {cell.key for cell in CELLS[:4]}
    assert all(len(rows) in (2, 40) for _, rows in kept.groupby("cell")), "whole cells only"


def test_a_store_copied_by_sqlites_backup_while_it_is_written_is_whole(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store.sqlite"))
    done = threading.Event()

    def write() -> None:
        number = 0
        while not done.is_set():
            number += 1
            store.save(replace(CELLS[0], seed=number).record(ROWS, 1.0))

    writer = threading.Thread(target=write)
    writer.start()
    for number in range(5):
        with sqlite3.connect(store.name) as source, sqlite3.connect(tmp_path / f"copy{number}.sqlite") as target:
            source.backup(target)
        copied = Store(str(tmp_path / f"copy{number}.sqlite"), read_only=True).rows()
        assert all(len(rows) == 2 for _, rows in copied.groupby("cell"))
    done.set()
    writer.join()


def _plain_text(path: Path) -> None:
    path.write_text("this is a letter, no database\n" * 200)


def _database_of_something_else(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("create table meta (name text)")
        connection.execute("create table songs (name text)")


def _newer(path: Path) -> None:
    store = Store(str(path))
    with store.engine.begin() as connection:
        connection.execute(sa.update(META).values(value=str(SCHEMA_VERSION + 1)))
    store.engine.dispose()


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "text": (_plain_text, "is no SQLite file; choose another with --store"),
    "foreign": (_database_of_something_else, "is a database of something else (tables: meta, songs); choose another"),
    "newer": (_newer, f"has schema version {SCHEMA_VERSION + 1}; this longatlas reads up to {SCHEMA_VERSION}: install"),
    "folder": (lambda path: path.mkdir(), "is a folder; give the path of a file"),
}


@pytest.mark.parametrize("kind", BAD)
def test_no_store_is_refused_and_left_as_it_is(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bad.sqlite"
    make, told = BAD[kind]
    make(path)
    before = None if path.is_dir() else snapshot(path)
    with pytest.raises(LongAtlasError) as caught:
        Store(str(path))
    assert told in str(caught.value)
    assert str(path) in str(caught.value)
    assert before is None or snapshot(path) == before


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("foo://bar", "is of the unknown kind 'foo'"),
        ("sqlite+nothing:///x", "is of the unknown kind 'sqlite+nothing'"),
        ("mysql+pymysql_://user@host/name", "is of the unknown kind"),
        ("://", "is no URL that can be read"),
    ],
)
def test_a_url_of_no_database_is_refused(url: str, words: str) -> None:
    with pytest.raises(LongAtlasError) as caught:
        Store(url)
    assert words in str(caught.value)


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(LongAtlasError, match="needs the module 'psycopg'; pip install 'longatlas\\[postgres\\]'"):
        Store("postgresql+psycopg://user@host/name")


def test_read_only_makes_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "none.sqlite"
    with pytest.raises(LongAtlasError, match="does not exist; make one with `longatlas run`"):
        Store(str(path), read_only=True)
    assert not path.exists()
    _database_of_something_else(path)
    before = snapshot(path)
    with pytest.raises(LongAtlasError, match="holds no longatlas results"):
        Store(str(path), read_only=True)
    assert snapshot(path) == before


def test_a_read_only_store_refuses_to_be_written(store: Store) -> None:
    fill(store, CELLS[:1])
    reader = Store(store.url.render_as_string(hide_password=False), read_only=True)
    for write in (lambda: reader.remember("peaks", "1"), lambda: fill(reader, CELLS[1:2])):
        with pytest.raises(LongAtlasError, match="read"):
            write()
    assert len(reader.rows()) == len(store.rows()) == 2
    assert store.fact("peaks") is None
    reader.engine.dispose()


def test_files_beside_stores_are_told_apart(tmp_path: Path) -> None:
    names = ("results.v1", "results.v2", "store.sqlite", "store.db", "plain")
    files = {name: Store(str(tmp_path / name)).beside(".hosts") for name in names}
    assert len(set(files.values())) == len(names)
    assert files["store.sqlite"] == tmp_path / "store.hosts"


def test_of_cells_from_elsewhere_the_latest_is_what_was_finished_last(store: Store) -> None:
    old, new = (replace(CELLS[0], source=source).record(ROWS, 1.0) for source in ("old", "new"))
    for record, at in ((old, 100.0), (new, 200.0)):
        object.__setattr__(record, "facts", {**record.facts, "created": at})
    old, new = replace(old, origin="there"), replace(new, origin="there")
    for order in ((old, new), (new, old)):
        with store.writing() as connection:
            put(connection, order)
        assert set(store.rows(latest=True)["source"]) == {"new"}
        with store.writing() as connection:
            mark_latest(connection)
        assert set(store.rows(latest=True)["source"]) == {"new"}
        prune(store, selection(method=CELLS[0].method))


def test_a_file_in_the_way_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LongAtlasError, match="cannot make the folder of store"):
        Store(str(tmp_path / "file" / "store.sqlite"))


def test_two_processes_may_create_it_at_once(tmp_path: Path) -> None:
    script = "import sys; from longatlas.store import Store; Store(sys.argv[1]).check_writable()"
    path = str(tmp_path / "store.sqlite")
    processes = [subprocess.Popen([sys.executable, "-c", script, path], stderr=subprocess.PIPE) for _ in range(4)]
    assert [(p.wait(pace.seconds(60)), p.stderr and p.stderr.read()) for p in processes] == [(0, b"")] * 4


READER = """
import json, os, sqlite3, sys
import pandas, sqlalchemy.dialects.sqlite.pysqlite
from longatlas import LongAtlasError
from longatlas.store import Store
os.chdir("/")
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
found = len(Store(sys.argv[1], read_only=True).rows())
try:
    Store(sys.argv[1]).check_writable()
    told = "written"
except LongAtlasError as error:
    told = str(error)
print(json.dumps([found, told]))
"""


@pytest.mark.parametrize("folder_mode", [0o555, 0o777])
def test_a_store_without_write_permission_can_be_read(folder_mode: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "store.sqlite"
        fill(Store(str(path)), CELLS[:1]).engine.dispose()
        path.chmod(0o444)
        path.parent.chmod(folder_mode)
        command = [sys.executable, "-c", READER, str(path)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=pace.seconds(60))
        path.parent.chmod(0o755)
    assert run.returncode == 0, run.stderr
    found, told = json.loads(run.stdout)
    assert found == 2
    assert told.startswith(f"store '{path}' cannot be written (")
    assert told.endswith("make it writable, or choose another with --store")


def test_a_store_that_another_version_takes_over_while_it_is_open_says_so(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store.sqlite"))
    assert store.state() == (0, "")
    with store.writing() as connection:
        connection.exec_driver_sql("UPDATE meta SET value = '99' WHERE key = 'version'")
    with pytest.raises(LongAtlasError, match=r"has schema version 99 now, and this longatlas reads \d: .* end this"):
        store.state()


def test_a_store_that_has_lost_a_table_says_what_to_do(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store.sqlite"))
    with store.writing() as connection:
        connection.exec_driver_sql("DROP TABLE jobs")
    with pytest.raises(LongAtlasError, match=r"has lost a part \(no such table: jobs\): .* put a copy of it back"):
        jobs.jobs(store)
