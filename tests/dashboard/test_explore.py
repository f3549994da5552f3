"""Home, Taxonomy, Method and Compare."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pace
import pytest
import sqlalchemy as sa
from showing import charts_of, frame_with, show, texts, with_plugins

from longatlas import catalog
from longatlas.harness import findings, jobs
from longatlas.harness.cells import expand
from longatlas.harness.plan import Plan
from longatlas.plugins import Fault, Plugin
from longatlas.store import Store
from longatlas.store.schema import CELLS
from longatlas.store.transfer import export_rows, import_rows, read_rows


def test_home_counts_and_lists_the_newest_job(filled: Store) -> None:
    job = jobs.submit(filled, Plan(methods=("alibi",)), start=False)
    jobs.cancel(filled, job.id)
    app = show("home")
    values = {metric.label: metric.value for metric in app.metric}
    assert values["Methods measured"] == "6"
    assert int(values["Papers described"]) >= 133
    assert "alibi" in texts(app)


def test_taxonomy_narrows_to_a_node_and_finds_by_words(empty: Store) -> None:
    app = show("taxonomy", node="long_term_memory/internal_cache/compressive_memory")
    assert "Compressive Memory" in texts(app)
    assert "LongLoRA" not in texts(app)
    app = show("taxonomy", q="chen longlora")
    assert "LongLoRA" in texts(app)
    assert "Reformer" not in texts(app)


def test_taxonomy_says_what_an_unknown_node_is(empty: Store) -> None:
    app = show("taxonomy", node="efficient_atention")
    assert "did you mean" in app.error[0].value.replace("\\", "")
    assert "The whole tree" in texts(app)


def test_method_shows_equations_options_departures_and_source(filled: Store) -> None:
    app = show("method", id="infini_attention")
    words = texts(app)
    assert len(app.get("latex") or app.markdown) > 0
    assert "Where the paper leaves things open" in words
    assert "METHOD = Method(" in words
    assert "@misc{infini_attention" in words
    assert app.dataframe[0].value["option"].tolist() == ["segment_len", "update", "first_segment"]


def test_method_unknown_suggests_the_nearest(empty: Store) -> None:
    app = show("method", id="slidin_window")
    assert "did you mean" in app.error[0].value
    assert app.selectbox(key="method_choice").options


def test_method_of_a_broken_plugin_names_the_plugin(empty: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = Fault("ours", "my_method", "ImportError: no module named 'elsewhere'")
    broken = Plugin("mine", "1", "mine", error="ImportError: no module named 'nowhere'")
    atlas = with_plugins(broken, Plugin("ours", "1", "ours", broken=(fault,)))
    monkeypatch.setattr(catalog, "load_catalog", lambda: atlas)
    app = show("method", id="my_method")
    assert "elsewhere" in app.error[0].value
    assert ["nowhere" in app.warning[0].value, "elsewhere" in app.warning[1].value] == [True, True]
    assert "`my_method` of plugin `ours`" in app.warning[1].value


def test_compare_shows_cards_failures_and_plots(filled: Store) -> None:
    app = show("compare", m="vanilla,transformer_xl")
    assert set(frame_with(app, "reason")["status"]) == {"oom", "timeout", "skipped"}
    cards = frame_with(app, "fact").set_index("fact")
    assert cards.loc["≠ time"].tolist() == ["T^2", "T*(M+N)"]
    assert cards.loc["training"].tolist() == ["train", "train"]
    assert len(charts_of(app)) >= 7


def test_compare_says_which_methods_it_does_not_know(filled: Store) -> None:
    app = show("compare", m="vanilla,nothing_at_all")
    assert "nothing_at_all" in app.error[0].value
    assert app.multiselect(key="compare_methods").value == ["vanilla"]


def test_compare_offers_to_run_what_is_missing(filled: Store) -> None:
    app = show("compare", m="vanilla,yarn+sliding_window")
    assert "yarn+sliding_window" in app.info[0].value


def test_method_computes_its_influence_map_once(empty: Store) -> None:
    app = show("method", id="sliding_window")
    assert "window=8" not in texts(app)
    app.button(key="find_influence").click().run(timeout=pace.seconds(90))
    assert not app.exception
    assert not app.error
    assert "sliding_window:window=8" in texts(app)
    again = show("method", id="sliding_window")
    assert "sliding_window:window=8" in texts(again)
    assert again.button(key="find_influence").label == "Again"


def test_method_says_why_a_map_cannot_be_had(empty: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(findings.KINDS, "influence", 0.05)
    app = show("method", id="vanilla")
    app.button(key="find_influence").click().run(timeout=pace.seconds(90))
    assert not app.exception
    assert "was ended" in app.error[0].value


def test_home_answers_which_method_and_says_what_is_not_measured(filled: Store) -> None:
    app = show("home", T="1024", train="no", exact="yes")
    words = texts(app)
    table = frame_with(app, "why")
    assert set(table["method"]) == {"vanilla", "flash_attention"}
    left_out = app.dataframe[1].value.set_index("method")["why"]
    assert left_out["alibi"] == "computes something else than vanilla attention"
    assert "the fastest" in words
    app = show("home", T="16384")
    assert "None that may fit has been measured at T = 16K here." in app.info[0].value
    command = next(code.value for code in app.code if "--lengths 16384" in code.value)
    assert command.startswith("longatlas run --methods vanilla,")
    app = show("home", device="cuda")
    assert "--device cuda" in texts(app)


def test_home_answers_from_this_machine_alone_and_despite_methods_that_are_gone(tmp_path: Path, empty: Store) -> None:
    plan = Plan(methods=("vanilla",), lengths=(1024, 4096), measure=("speed",), phases=("prefill",))
    for cell in expand(plan):
        empty.save(cell.record([{"metric": "prefill_ms", "value": 1.0, "unit": "ms"}], 1.0))
        empty.save(replace(cell, method="gone").record([{"metric": "prefill_ms", "value": 1.0, "unit": "ms"}], 1.0))
    app = show("home")
    assert not app.error
    assert app.dataframe[1].value.set_index("method")["why"]["gone"] == "its plugin is not installed"
    export_rows(empty.rows(samples=True).assign(machine="another"), tmp_path / "rows.json")
    with empty.writing() as connection:
        connection.execute(sa.delete(CELLS))
    import_rows(empty, read_rows(tmp_path / "rows.json"), "x")
    assert "No time has been measured on `cpu` here yet." in texts(show("home"))


def test_taxonomy_has_the_surveys_tables_of_evaluation_and_toolkits(empty: Store) -> None:
    evaluation, toolkits = (frame_with(show("taxonomy", view=view), "address") for view in ("evaluation", "toolkits"))
    atlas = catalog.load_catalog().taxonomy
    assert len(evaluation) == len(atlas.evaluation.resources)
    assert set(toolkits["name"]) == {resource.name for resource in atlas.toolkits.resources}
    table = show("taxonomy", **{"as": "table", "part": "position", "s": "runnable"})
    shown = next(frame for frame in (e.value for e in table.dataframe) if "page" in frame)
    assert "method?id=yarn" in set(shown["page"])
    assert set(shown["status"]) == {"runnable"}


def test_home_counts_what_was_measured_here_and_lists_runs_of_the_terminal(empty: Store, tmp_path: Path) -> None:
    plan = Plan(methods=("vanilla", "yarn:factor=2", "yarn:factor=8"), measure=("speed", "memory"), lengths=(512,))
    for cell in expand(plan):
        if cell.method != "yarn:factor=8.0" or cell.measure == "memory":
            empty.save(cell.record([{"metric": "x", "value": 1.0}], 1.0))
    app = show("home")
    counts = {metric.label: metric.value for metric in app.metric}
    assert (counts["Methods measured"], counts["Methods verified"]) == ("2", "2")
    papers = {paper.address for node in catalog.load_catalog().taxonomy.walk() for paper in node.papers}
    assert counts["Papers described"] == str(len(papers))
    assert "cells, measured here" in texts(app).replace("\\", "")
    export_rows(empty.rows(samples=True).assign(machine="another"), tmp_path / "rows.json")
    with empty.writing() as connection:
        connection.execute(sa.delete(CELLS))
    import_rows(empty, read_rows(tmp_path / "rows.json"), "elsewhere")
    counts = {metric.label: metric.value for metric in show("home").metric}
    assert (counts["Methods measured"], counts["Methods verified"]) == ("0", "0")


def test_home_says_where_nothing_was_measured_at_a_length(filled: Store) -> None:
    words = texts(show("home", T="1048576"))
    assert "None that may fit has been measured at T = 1M here." in words
    assert "Nothing that was measured fits" not in words
    lines = texts(show("home", T="512"))
    for what in ("the fastest", "the best quality", "the least memory"):
        assert what in lines


def test_homes_link_opens_the_plan_that_it_prints(filled: Store) -> None:
    app = show("home", T="512", phase="decode", mem=str(1 << 37))
    (command,) = (code.value for code in app.code if code.value.startswith("longatlas run"))
    link = next(link for link in app.get("page_link") if link.proto.label == "Or run it from here")
    query = dict(part.split("=") for part in unquote(link.proto.query_string).lstrip("?").split("&"))
    opened = texts(show("run", **query))
    assert command in opened
