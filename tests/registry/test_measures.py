"""Measures: a new one takes its description and its function, and goes from a plan to tables, files and comparisons."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from longatlas.columns import COLUMNS
from longatlas.compare import compare
from longatlas.compare.sides import side_of
from longatlas.harness.cells import expand
from longatlas.harness.estimating import estimate
from longatlas.harness.plan import Plan, PlanError, plan_from_yaml
from longatlas.harness.running import run
from longatlas.harness.summary import summarise
from longatlas.measures import LESS, MEASURES, MORE, SHAPED_KEYS, Measure, Metric, View, direction, metric_of, shapes
from longatlas.store import Store
from longatlas.store.schema import FLAT
from longatlas.store.transfer import export_rows, import_rows, read_rows

LETTERS = Measure(
    name="letters",
    kind="letters",
    cells=shapes,
    needs=SHAPED_KEYS,
    function="planted_measure:rows",
    guess=lambda plan, before, call: 0.25,
    metrics=(Metric("letters", MORE),),
    shown=(View("letters", "Letters of the spec", "prefill", "letters", "letters", "prefill: letters"),),
)
FUNCTION = """
def rows(cell, cache):
    return [{"metric": "letters", "unit": "letters", "value": float(len(cell["method"]) * cell["T"]), "n": 1}]
"""


@pytest.fixture
def letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """The measure is there, in this process and in workers, and a plan asks for it."""
    folder = tmp_path / "planted"
    folder.mkdir()
    (folder / "planted_measure.py").write_text(FUNCTION)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setitem(MEASURES, LETTERS.name, LETTERS)
    return Plan(("vanilla", "alibi"), measure=("letters",), phases=("prefill",), lengths=(8, 16), layers=1, threads=1)


def test_a_planted_measure_is_planned_measured_stored_and_shown(letters: Plan, tmp_path: Path) -> None:
    assert plan_from_yaml(letters.to_yaml()) == letters
    store = Store(str(tmp_path / "store.sqlite"))
    cells = expand(letters)
    assert [(cell.measure, cell.method, cell.T) for cell in cells] == [
        ("letters", method, T) for T in (8, 16) for method in ("vanilla", "alibi")
    ]
    assert estimate(store, letters, cells).seconds == pytest.approx(4 * 0.25)
    frame = run(letters, store=store, progress=False)
    assert dict(zip(zip(frame["method"], frame["T"], strict=True), frame["value"], strict=True)) == {
        ("vanilla", 8): 56.0,
        ("alibi", 8): 40.0,
        ("vanilla", 16): 112.0,
        ("alibi", 16): 80.0,
    }
    (table,) = (made for made in summarise(frame) if made.title.startswith("prefill: letters"))
    assert table.lines == [["vanilla", "56", "112"], ["alibi", "40", "80"]]
    file = tmp_path / "rows.json"
    export_rows(store.rows(samples=True), file)
    other = Store(str(tmp_path / "other.sqlite"))
    assert import_rows(other, read_rows(file), "elsewhere").cells == 4
    less = other.rows().assign(value=lambda rows: rows["value"] / 2)
    lines = compare(side_of("before", other.rows()), side_of("after", less)).lines
    assert {line.verdict for line in lines} == {"worse"}, "more of it is better"


def test_a_plan_needs_the_keys_of_its_measures_only(letters: Plan) -> None:
    with pytest.raises(PlanError, match="lengths is empty"):
        letters.with_values({"lengths": ()})
    assert letters.with_values({"tasks": ()}).tasks == ()


def test_a_measure_that_is_not_there_is_an_unknown_word() -> None:
    with pytest.raises(PlanError, match="measure has the unknown value 'leters'; known: memory, quality, speed"):
        Plan(("vanilla",), measure=("leters",))


@pytest.mark.parametrize(
    ("metric", "better", "compared"),
    [
        ("decode_ms", LESS, "always"),
        ("tokens_per_s", MORE, "always"),
        ("compile_ms", LESS, "here"),
        ("peak_bytes", LESS, "always"),
        ("resident_peak_bytes", LESS, "here"),
        ("moved_bytes", LESS, "here"),
        ("flops", 0, "here"),
        ("compute_share", MORE, "never"),
        ("accuracy_depth_3", MORE, "always"),
        ("bits_per_byte_at_end", LESS, "always"),
        ("of_nobody", 0, "always"),
    ],
)
def test_what_is_known_of_a_metric(metric: str, better: int, compared: str) -> None:
    assert (direction(metric), metric_of(metric).compare) == (better, compared)


def test_views_have_a_metric_of_their_measure() -> None:
    for measure in MEASURES.values():
        for view in measure.views:
            assert metric_of(view.metric) in measure.metrics
            assert view.measure == measure.name


def test_a_column_stands_in_its_table_as_it_is_described() -> None:
    assert list(FLAT) == list(COLUMNS)
    for name, column in COLUMNS.items():
        stored = FLAT[name]
        kind = str if column.is_json else column.kind
        assert stored.type.python_type is kind, name
        assert bool(stored.nullable) == (column.default is None), name
        assert stored.table.name == column.table


def test_json_columns_are_read_back(tmp_path: Path) -> None:
    assert COLUMNS["case"].check('{"batch": 1}') == {"batch": 1}
    assert COLUMNS["samples"].check(None) == []
    assert json.loads(json.dumps(COLUMNS["samples"].check("[1, 2.5]"))) == [1, 2.5]
