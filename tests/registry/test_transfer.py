"""Results out of a store and into another: exact, checked, and never twice."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from longatlas import LongAtlasError
from longatlas.harness.cells import expand
from longatlas.harness.plan import Plan
from longatlas.store import Store, prune
from longatlas.store.transfer import export_rows, import_rows, read_rows

PLAN = Plan(methods=("vanilla", "yarn:factor=2+sliding_window"), measure=("speed",), lengths=(8, 16), phases=("train",))
CELLS = expand(PLAN)
ROWS: list[dict[str, Any]] = [
    {
        "metric": "train_ms",
        "unit": "ms",
        "value": 0.1 + 0.2,
        "low": 1e-13,
        "high": 1e300,
        "n": 3,
        "samples": [1.5, 0.1],
    },
    {"metric": "tokens_per_s", "unit": "tokens/s", "value": 9.0},
]
FAILURE = [{"status": "crash", "reason": 'it said "no",\nand ended; ünïcode'}]
FORMATS = (".csv", ".json", ".parquet")
ORIGINS = ["id", "origin"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(str(tmp_path / "store.sqlite"))
    for cell in CELLS[:-1]:
        made.save(cell.record(ROWS, 1.25))
    made.save(CELLS[-1].record(FAILURE, 0.5))
    return made


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_goes_out_comes_in_exactly(store: Store, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"rows{suffix}"
    frame = store.rows(samples=True)
    export_rows(frame, file)
    other = Store(str(tmp_path / "other.sqlite"))
    done = import_rows(other, read_rows(file), file.name)
    assert (done.cells, done.rows, done.known) == (4, 7, 0)
    found = other.rows(samples=True)
    pd.testing.assert_frame_equal(found.drop(columns=ORIGINS), frame.drop(columns=ORIGINS))
    assert set(found["origin"]) == {file.name}
    again = import_rows(other, read_rows(file), file.name)
    assert (again.cells, again.known) == (0, 4)
    assert len(other.rows()) == len(frame)
    assert other.finished([cell.key for cell in CELLS]) == store.finished([cell.key for cell in CELLS])


def test_what_run_prints_as_json_can_be_imported(store: Store, tmp_path: Path) -> None:
    from longatlas.cli.measure import flat_rows

    file = tmp_path / "rows.json"
    file.write_text(json.dumps(flat_rows(store.rows())))
    assert import_rows(Store(str(tmp_path / "other.sqlite")), read_rows(file), "x").cells == 4


def test_imported_rows_do_not_replace_this_machines(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    export_rows(store.rows(samples=True), file)
    rows = json.loads(file.read_text())
    for row in rows:
        row |= {"machine": "another", "cell": f"x{row['cell']}"}
    file.write_text(json.dumps(rows))
    import_rows(store, read_rows(file), "x")
    latest = store.rows(latest=True)
    assert set(latest["machine"]) == {"another", *store.rows(keys=[CELLS[0].key])["machine"]}
    assert len(latest) == 14


Change = Callable[[dict[str, Any]], Any]
WRONG: dict[str, tuple[Change, str]] = {
    "value_text": (lambda row: row.update(value="fast"), "row 2: value is 'fast'; expected a number"),
    "value_infinite": (lambda row: row.update(value=math.inf), "row 2: value is inf with status ok; expected a finite"),
    "value_missing": (lambda row: row.update(value=None), "row 2: value is None with status ok"),
    "T": (lambda row: row.update(T=1.5), "row 2: T is 1.5; expected a whole number"),
    "seed": (lambda row: row.update(seed=-1), "row 2: seed is -1; expected a whole number of at least 0"),
    "status": (lambda row: row.update(status="okay"), "row 2: status is the unknown value 'okay'; did you mean 'ok'?"),
    "measure": (
        lambda row: row.update(measure="sped"),
        "row 2: measure is the unknown value 'sped'; did you mean 'speed'?",
    ),
    "phase": (
        lambda row: row.update(phase="trian"),
        "row 2: phase is the unknown value 'trian'; did you mean 'train'?",
    ),
    "level": (lambda row: row.update(level="block"), "row 2: level is the unknown value 'block'"),
    "dtype": (lambda row: row.update(dtype="float8"), "row 2: dtype is the unknown value 'float8'"),
    "cell": (lambda row: row.update(cell=""), "row 2: cell is empty"),
    "column": (lambda row: row.update(colour="red"), "row 2: unknown column 'colour'"),
    "lacks": (lambda row: row.pop("machine"), "row 2: machine is None; expected text"),
    "case": (lambda row: row.update(case="[1"), "row 2: case is '[1'; expected JSON"),
    "case_list": (lambda row: row.update(case=[1]), "row 2: case is [1]; expected an object"),
    "samples": (lambda row: row.update(samples=["a"]), "row 2: samples is ['a']; expected a list of numbers"),
    "created": (
        lambda row: row.update(created=1e15),
        "row 2: created is 1000000000000000.0; expected seconds since 1970",
    ),
    "created_nan": (lambda row: row.update(created=math.nan), "row 2: created is nan; expected seconds since 1970"),
    "case_empty": (lambda row: row.update(case={}), "row 2: case has batch None; expected a whole number from 1"),
    "case_layers": (
        lambda row: row["case"].update(layers=10**9),
        "row 2: case has layers 1000000000; expected a whole",
    ),
    "case_preset": (lambda row: row.update(measure="quality"), "expected the task's preset in it"),
    "reason_half": (lambda row: row.update(reason="a\ud800"), "row 2: reason holds '\\ud800', half of a character"),
    "method_half": (lambda row: row.update(method="\udfff"), "row 2: method holds '\\udfff', half of a character"),
    "versions_half": (lambda row: row["versions"].update(x="\ud800"), "row 2: versions holds '\\ud800', half of"),
    "column_half": (lambda row: row.update({"\ud800": 1}), "row 2: unknown column '\\ud800'"),
    "differs": (lambda row: row.update(method="alibi"), "has rows that differ in method"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_row_is_named_and_nothing_is_taken_in(store: Store, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "rows.json"
    export_rows(store.rows(samples=True), file)
    rows = json.loads(file.read_text())
    change, words = WRONG[kind]
    change(rows[1])
    file.write_text(json.dumps(rows))
    other = Store(str(tmp_path / "other.sqlite"))
    with pytest.raises(LongAtlasError) as error:
        import_rows(other, read_rows(file), "x")
    assert words in str(error.value)
    assert other.rows().empty


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("rows.txt", "x", "it must be .csv, .json or .parquet"),
        ("rows.json", "{", "cannot be read as JSON"),
        ("rows.json", '{"a": 1}', "holds no list of rows"),
        ("rows.parquet", "not parquet", "cannot be read as PARQUET"),
        ("rows.csv", "a,b\n1,2\n", "unknown column 'a'"),
        ("missing.json", None, "No such file"),
        ("rows.json", "[]", r"rows.json' holds no rows; choose a file that"),
        ("rows.csv", "", r"rows.csv' holds no rows"),
        ("rows.csv", "method,value\n", r"rows.csv' holds no rows"),
    ],
)
def test_files_that_are_no_export_are_refused(tmp_path: Path, name: str, text: str | None, words: str) -> None:
    file = tmp_path / name
    if text is not None:
        file.write_text(text)
    with pytest.raises(LongAtlasError, match=words):
        read_rows(file)


def test_text_that_looks_like_a_number_stays_text(store: Store, tmp_path: Path) -> None:
    rows = store.rows(samples=True).assign(source="12345678e0123456", machine="007")
    export_rows(rows, tmp_path / "rows.csv")
    assert {(row["source"], row["machine"]) for row in read_rows(tmp_path / "rows.csv")} == {
        ("12345678e0123456", "007")
    }


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_of_too_many_rows_is_refused(store: Store, tmp_path: Path, suffix: str) -> None:
    export_rows(store.rows(samples=True), tmp_path / f"rows{suffix}")
    with pytest.raises(LongAtlasError, match="holds 7 rows; at most 6 are taken at a time"):
        read_rows(tmp_path / f"rows{suffix}", most=6)


def test_a_small_file_that_unpacks_to_gigabytes_is_refused(store: Store, tmp_path: Path) -> None:
    rows = pd.concat([store.rows(samples=True)] * 1000).assign(reason="x" * 1_000_000)
    file = tmp_path / "rows.parquet"
    export_rows(rows, file)
    assert file.stat().st_size < 5 << 20
    with pytest.raises(LongAtlasError, match="holds more than 512 MiB unpacked"):
        read_rows(file)


def test_an_older_import_does_not_hide_what_was_measured_here(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    newest_first = store.rows(samples=True).iloc[::-1]
    export_rows(newest_first, file)
    rows = json.loads(file.read_text())
    older = [{**row, "cell": f"old{row['cell']}", "created": row["created"] - 100, "source": "old"} for row in rows]
    file.write_text(json.dumps(older))
    import_rows(store, read_rows(file), "x")
    assert "old" not in set(store.rows(latest=True)["source"])


def test_an_export_that_cannot_be_written_says_so(store: Store, tmp_path: Path) -> None:
    with pytest.raises(LongAtlasError, match=r"cannot write .*choose another place"):
        export_rows(store.rows(), tmp_path / "nowhere" / "rows.csv")
    with pytest.raises(LongAtlasError, match=r"must be \.csv"):
        export_rows(store.rows(), tmp_path / "rows.xlsx")


# Prune


def test_prune_takes_what_is_named_and_nothing_else(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = replace(CELLS[0], source="changed")
    store.save(newer.record(ROWS, 1.0))
    assert prune.count(store, prune.selection(superseded=True)) == (1, 2)
    assert prune.prune(store, prune.selection(superseded=True)) == 1
    assert CELLS[0].key not in store.finished([CELLS[0].key])
    assert prune.prune(store, prune.selection(failed=True)) == 1
    assert set(store.rows()["status"]) == {"ok"}
    assert prune.count(store, prune.selection(older_than="1h"))[0] == 0
    later = prune.time.time() + 7200
    monkeypatch.setattr(prune.time, "time", lambda: later)
    assert prune.count(store, prune.selection(older_than="1h", method="vanilla"))[0] == 2
    assert prune.prune(store, prune.selection(method="vanilla")) == 2
    assert set(store.rows()["method"]) == {CELLS[1].method}


def test_pruning_the_newest_makes_the_one_before_it_the_newest(store: Store) -> None:
    store.save(replace(CELLS[0], source="changed").record(FAILURE, 1.0))
    assert CELLS[0].key not in set(store.rows(latest=True)["cell"])
    prune.prune(store, prune.selection(failed=True))
    assert CELLS[0].key in set(store.rows(latest=True)["cell"])


@pytest.mark.parametrize("age", ["3", "d", "-1d", "3 days", "1y"])
def test_an_age_that_cannot_be_read(age: str) -> None:
    with pytest.raises(LongAtlasError, match="expected a number with h, d or w"):
        prune.selection(older_than=age)


def test_prune_wants_to_be_told_what() -> None:
    with pytest.raises(LongAtlasError, match="nothing says what to prune"):
        prune.selection()


def test_the_command_line(store: Store, tmp_path: Path, command: Callable[..., Any]) -> None:
    file, other = str(tmp_path / "rows.csv"), str(tmp_path / "other.sqlite")
    done = command("results", "export", file, "--method", "vanilla", "--store", store.name)
    assert done.stdout == f"4 rows of 2 cells are in {file}\n"
    assert command("results", "import", file, "--store", other).stdout.endswith("4 rows of 2 cells imported\n")
    again = command("results", "import", file, "--store", other)
    assert again.stdout.endswith("0 rows of 0 cells imported; 2 cells were there already\n")
    dry = command("results", "prune", "--method", "vanilla", "--dry-run", "--store", other)
    assert dry.stdout == f"4 rows of 2 cells would be deleted from {other}\n"
    refused = command("results", "prune", "--method", "vanilla", "--store", other, input="n\n")
    assert refused.returncode == 130
    assert command("results", "prune", "--method", "vanilla", "--yes", "--store", other).stdout.startswith(
        "4 rows of 2"
    )
    bad = command("results", "prune", "--store", other)
    assert (bad.returncode, bad.stdout) == (2, "")
