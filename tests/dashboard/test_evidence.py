"""Scaling, Memory, Trade-off, Retrieval and Results, and what a reader takes along from them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pace
import pytest
import sqlalchemy as sa
from showing import charts_of, frame_with, show, texts

from longatlas.harness.cells import expand
from longatlas.harness.plan import Plan, plan_from_yaml
from longatlas.store import Store, queries
from longatlas.store.schema import CELLS


def test_of_several_seeds_and_implementations_plots_show_one_value(repeated: Store) -> None:
    app = show("scaling", m="vanilla,alibi")
    values = frame_with(app, "impl")
    times = values[values["metric"] == "prefill_ms"]
    assert sorted(zip(times["method"], times["T"], strict=True)) == [
        (method, T) for method in ("alibi", "vanilla") for T in (512, 1024)
    ]
    assert "reference" not in set(values["impl"])
    app = show("scaling", m="vanilla,alibi", impl="reference")
    assert set(frame_with(app, "impl")["impl"]) == {"reference"}
    assert any("--impl reference" in code.value for code in app.code)


def test_a_view_is_taken_along_with_its_quality(filled: Store) -> None:
    for page, tasks in (("compare", ("", " --tasks mqar", " --tasks passkey")), ("trade_off", ("",))):
        words = texts(show(page, m="vanilla,alibi"))
        assert "--methods vanilla,alibi --measure speed" in words, page
        for task in tasks:  # the language model is a plan's task without a word
            assert f"--methods vanilla,alibi --measure quality{task} --preset demo" in words, (page, task)


def test_retrieval_shows_a_task_whose_every_cell_failed(empty: Store) -> None:
    plan = Plan(methods=("vanilla",), measure=("quality",), tasks=("passkey",), preset="smoke")
    (cell,) = expand(plan)
    empty.save(cell.record([{"status": "crash", "reason": "planted"}], 1.0))
    app = show("retrieval", m="vanilla")
    assert "Every cell of this task failed" in texts(app)
    assert frame_with(app, "reason")["reason"].tolist() == ["planted"]
    (better,) = expand(plan.with_values({"preset": "demo"}))
    empty.save(better.record([{"metric": "accuracy", "value": 1.0, "T": 128}], 1.0))
    empty.save(cell.record([{"status": "crash", "reason": "again"}], 1.0))
    assert "No retrieval" not in texts(show("retrieval", m="vanilla"))


def test_scaling_fits_growth_beside_the_claims_and_keeps_failures(filled: Store) -> None:
    app = show("scaling", m="vanilla,transformer_xl")
    assert frame_with(app, "time claimed")["Prefill time"].str.startswith("T^").all()
    assert set(frame_with(app, "reason")["status"]) == {"oom", "timeout", "skipped"}
    assert len(charts_of(app)) == 3
    app = show("scaling", m="vanilla,transformer_xl", p="decode", u="ratio")
    assert "Decode time, one token over that of vanilla" in texts(app)
    assert len(charts_of(app)) == 1
    app = show("scaling", m="vanilla", u="rate")
    assert "Prefill rate" in texts(app)


def test_memory_tells_what_fits_a_budget_and_the_formula_of_the_state(filled: Store) -> None:
    app = show("memory", m="vanilla,infini_attention", of="state", budget=str(1 << 20))
    assert not app.error
    fits = frame_with(app, "needs there").set_index("method")
    assert fits.loc["vanilla", "measured"] == "1K"
    assert fits.loc["infini_attention", "estimated T"] == "any"
    state = frame_with(app, "formula")
    kept = 2 * 4 * 32 * 4 * 2  # bytes a token: keys and values of 4 heads of 32 in fp32, in both layers
    vanilla = state[state["method"] == "vanilla"]
    assert (vanilla["formula"] == vanilla["T"] * kept).all()
    assert frame_with(app, "looks back")["paper's setting"].iloc[-1] == "1.6M"


def test_memory_measures_table_1_once(empty: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    app = show("memory", m="vanilla")
    assert app.button(key="find_footprint").label == "Measure the small setting"
    app.button(key="find_footprint").click().run(timeout=pace.seconds(120))
    assert not app.error
    table = frame_with(app, "small, measured").set_index("memory")
    assert table.loc["Infini-attention", "small, measured"] == table.loc["Infini-attention", "small, formula"]
    monkeypatch.setenv("LONGATLAS_DASHBOARD_READ_ONLY", "1")
    again = show("memory", m="vanilla")
    assert frame_with(again, "small, measured")["small, measured"].iloc[-1] != ""
    assert not [button for button in again.button if button.key == "find_footprint"]


def test_trade_off_chooses_cost_task_and_bucket(filled: Store) -> None:
    app = show("trade_off", m="vanilla,alibi,sliding_window", cost="state", upto="1024")
    table = frame_with(app, "frontier")
    assert set(table["method"]) == {"vanilla", "alibi", "sliding_window"}
    assert "State after a prefill, bytes" in table
    assert (table["frontier"] != "").any()
    app = show("trade_off", m="vanilla,alibi,sliding_window", task="mqar")
    assert "Upper left is better" in texts(app)
    best = frame_with(app, "frontier").sort_values("accuracy").iloc[-1]
    assert best["frontier"] == "not beaten"


def test_retrieval_maps_depth_and_tells_the_effective_length(filled: Store) -> None:
    app = show("retrieval", m="vanilla,alibi", task="passkey", hold="0.6")
    assert not app.error
    table = frame_with(app, "effective T")
    assert table["measured up to"].tolist() == ["512", "512"]
    assert table["effective T"].tolist() == ["256", "256"]
    assert len(charts_of(app)) == 3
    assert frame_with(show("retrieval", m="alibi", task="mqar"), "effective T")["measured up to"].tolist() == ["64"]


@pytest.mark.parametrize("page", ["scaling", "memory", "trade_off", "retrieval", "compare"])
def test_a_method_without_rows_gets_the_command_that_measures_it(filled: Store, page: str) -> None:
    app = show(page, m="yarn")
    assert not app.exception
    assert "longatlas run --methods yarn" in texts(app)
    assert "nothing_at_all" in show(page, m="nothing_at_all").error[0].value


@pytest.mark.parametrize("page", ["scaling", "memory", "retrieval", "run"])
def test_the_command_of_a_view_makes_the_plan_of_the_same_hash(filled: Store, page: str) -> None:
    app = show(
        page, m="vanilla,sliding_window:window=64,alibi", **({"t": "96,512", "w": "speed"} if page == "run" else {})
    )
    (command,) = [code.value for code in app.code if code.value.startswith("longatlas run --methods vanilla,sl")][:1]
    told = re.search(r"has the hash `([0-9a-f]{12})`", texts(app))
    assert told
    shell = f"{sys.executable} -m {command} --dry-run --json"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True, timeout=pace.seconds(60))
    assert json.loads(done.stdout)["hash"] == told[1]
    yaml = next(code.value for code in app.code if code.value.startswith("methods:\n"))
    assert plan_from_yaml(yaml).hash == told[1]


def test_results_filters_and_keeps_provenance(filled: Store) -> None:
    app = show("results")
    app.multiselect(key="s").set_value(["oom"]).run()
    shown = app.dataframe[0].value
    assert shown["reason"].tolist() == ["needs 3.1 GiB, more than the 2.0 GiB allowed"]
    assert {"machine", "versions", "source", "cell", "seed"} <= set(shown.columns)


def test_results_of_complete_methods_only(filled: Store) -> None:
    app = show("results", full="true", w="speed")
    assert not app.error
    shown = set(app.dataframe[0].value["method"])
    assert shown == {"flash_attention", "sliding_window", "infini_attention"}
    assert set(show("results", full="true", w="memory").dataframe[0].value["method"]) >= {"vanilla", "transformer_xl"}


def test_two_runs_are_compared_measurement_by_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "store.sqlite"
    monkeypatch.setenv("LONGATLAS_STORE", str(path))
    store = Store(str(path))
    plan = Plan(methods=("vanilla",), lengths=(512, 1024), measure=("speed",), phases=("prefill",))
    for seconds, value, source in ((0.0, 4.0, "old"), (5000.0, 8.0, "new")):
        for cell in expand(plan):
            row = {
                "metric": "prefill_ms",
                "value": value,
                "unit": "ms",
                "low": value - 0.1,
                "high": value + 0.1,
                "n": 9,
            }
            store.save(replace(cell, source=source).record([row], 1.0))
            with store.writing() as connection:
                moved = sa.update(CELLS).where(CELLS.c.key == replace(cell, source=source).key)
                connection.execute(moved.values(finished=1.7e9 + seconds))
    app = show("results", two="true")
    assert not app.error
    changed = frame_with(app, "verdict")
    assert changed[["baseline", "candidate", "verdict"]].values.tolist() == [[4.0, 8.0, "worse"]] * 2
    assert "Choose two different runs" in show("results", two="true", a="1700000000", b="1700000000").info[0].value
    assert not show("results", two="true", a="shipped").error


def test_plots_begin_with_the_setting_that_has_most_of_the_methods(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGATLAS_STORE", str(tmp_path / "store.sqlite"))
    store = Store(str(tmp_path / "store.sqlite"))
    plan = Plan(methods=("vanilla", "alibi"), lengths=(512, 1024), measure=("speed",), phases=("prefill",), layers=1)
    for chosen in (plan, plan.with_values({"layers": 3, "methods": ("vanilla",)})):
        for cell in expand(chosen):
            store.save(cell.record([{"metric": "prefill_ms", "value": 1.0, "unit": "ms", "n": 5}], 1.0))
    app = show("scaling", m="vanilla,alibi")
    assert "layers 1" in app.selectbox(key="on").options[app.selectbox(key="on").index]
    assert set(frame_with(app, "time claimed")["method"]) == {"vanilla", "alibi"}
    alone = show("scaling", m="vanilla")
    assert "layers 3" in alone.selectbox(key="on").options[alone.selectbox(key="on").index]


def test_curves_hold_one_version_of_a_method(empty: Store) -> None:
    plan = Plan(methods=("vanilla",), measure=("speed",), phases=("prefill",), lengths=(512, 1024, 2048))
    cells = expand(plan)
    for cell in [*(replace(cell, source="old") for cell in cells), cells[-1]]:
        empty.save(cell.record([{"metric": "prefill_ms", "value": 1.0, "unit": "ms"}], 1.0))
    app = show("scaling", m="vanilla")
    assert frame_with(app, "value")["T"].tolist() == [2048]
    assert "Values of an earlier version of `vanilla` are left out" in texts(app)


def test_trade_off_says_which_methods_have_no_point(empty: Store) -> None:
    plan = Plan(methods=("vanilla", "alibi", "yarn"), measure=("speed", "quality"), phases=("prefill",), lengths=(512,))
    for cell in expand(plan):
        if cell.measure == "speed" and cell.method != "alibi":
            empty.save(cell.record([{"metric": "prefill_ms", "value": 1.0, "unit": "ms"}], 1.0))
        elif cell.measure == "quality" and cell.method != "yarn":
            empty.save(cell.record([{"metric": "bits_per_byte", "value": 2.0, "T": 256}], 1.0))
    app = show("trade_off", m="vanilla,alibi,yarn")
    found = frame_with(app, "not measured").set_index("method")["not measured"].to_dict()
    assert found == {"alibi": "prefill time at T = 512", "yarn": "bits per byte at T = 256"}
    assert "cpu float32" in texts(app)


def test_a_page_of_rows_has_an_address(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "PAGE", 50)
    newest = filled.rows()["id"].iloc[::-1].tolist()
    for page in (1, 2):
        app = show("results", page=str(page))
        assert app.number_input(key="page").value == page
        assert frame_with(app, "id")["id"].tolist() == newest[50 * (page - 1) : 50 * page]
    app.number_input(key="page").set_value(1).run()
    assert "page" not in app.query_params
    assert show("results", page="9999").number_input(key="page").value == -(-len(newest) // 50)
