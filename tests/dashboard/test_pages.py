"""Each page with an empty store, with rows, and with something wrong: a message with a remedy, no traceback."""

from __future__ import annotations

import importlib
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError
from streamlit.testing.v1 import AppTest

from longatlas import catalog, combination
from longatlas.cards import Cost, Method, Option
from longatlas.catalog import Catalog
from longatlas.errors import LongAtlasError
from longatlas.harness import findings, jobs
from longatlas.harness.cells import expand
from longatlas.harness.estimating import estimate
from longatlas.harness.plan import Plan, plan_from_yaml
from longatlas.plugins import Plugin
from longatlas.store import Store
from longatlas.store.schema import CELLS, SETTINGS
from longatlas.store.transfer import export_rows, import_rows, read_rows
from longatlas_dashboard import gate, safe, ui, uploads

APP = Path(ui.__file__).with_name("app.py")
PAGES = sorted(path.stem for path in ui.PAGES.glob("*.py"))


def show(page: str, **query: str) -> AppTest:
    """The app after it has been opened at a page."""
    app = AppTest.from_file(str(APP), default_timeout=30)
    if page != "home":
        app.run()
        app.switch_page(f"views/{page}.py")
    for name, value in query.items():
        app.query_params[name] = value
    return app.run()


def texts(app: AppTest) -> str:
    """All words on the page."""
    kinds = ("title", "header", "subheader", "markdown", "caption", "text", "error", "warning", "info", "code")
    return "\n".join(str(element.value) for kind in kinds for element in getattr(app, kind))


@pytest.mark.parametrize("page", PAGES)
def test_every_page_works_with_an_empty_store(empty: Store, page: str) -> None:
    app = show(page)
    assert not app.exception
    assert not app.error
    assert app.title


@pytest.mark.parametrize("page", PAGES)
def test_every_page_works_with_rows(filled: Store, page: str) -> None:
    app = show(page)
    assert not app.exception
    assert not app.error


@pytest.mark.parametrize("page", [page for page in PAGES if page not in ("taxonomy", "methodology")])
def test_a_broken_store_is_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    path = tmp_path / "broken.sqlite"
    path.write_text("this is no database, " * 100)
    monkeypatch.setenv("LONGATLAS_STORE", str(path))
    app = show(page, id="vanilla") if page == "method" else show(page)
    assert not app.exception
    assert "no SQLite file" in app.error[0].value


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
    atlas = with_plugins(Plugin("mine", "1", "mine", error="ImportError: no module named 'nowhere'"))
    monkeypatch.setattr(catalog, "load_catalog", lambda: atlas)
    app = show("method", id="my_method")
    assert "nowhere" in app.warning[0].value


def with_plugins(*plugins: Plugin) -> Catalog:
    real = catalog.load_catalog()
    return Catalog([*real.plugins, *plugins], real.taxonomy)


EVIL = "<script>alert(1)</script> ![x](http://evil.example/x.png) [click](javascript:alert(1)) $x$ :red[y]"


def test_text_of_plugins_is_text(empty: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    evil = Method(
        name="evil", title=EVIL, family="misc/parallelism", summary=EVIL, fills={"attention": lambda c: None},
        deviations=EVIL, source=EVIL, equations=(f"$$ {EVIL}",), options=(Option("n", 1, EVIL),),
        paper="javascript:alert(1)", cost=Cost(time=EVIL, state=EVIL),
    )  # fmt: skip
    atlas = with_plugins(Plugin("mine", "1", "mine", (evil,)))
    monkeypatch.setattr(catalog, "load_catalog", lambda: atlas)
    for app in (show("method", id="evil"), show("taxonomy", node="misc/parallelism"), show("home")):
        assert not app.exception
        for kind in ("markdown", "caption", "title", "header", "subheader", "latex", "warning", "error"):
            for element in getattr(app, kind):
                left = re.sub(r"\\\W", "", element.value)
                assert not re.search(r"<script|!\[x|\]\(java|\$x|:red\[", left), element.value
        for metric in app.metric:
            assert "![x" not in re.sub(r"\\\W", "", metric.value)
    assert EVIL in [element.value for element in show("method", id="evil").text]


def test_plain_escapes_all_markup() -> None:
    assert safe.plain("a_b *c*") == r"a\_b \*c\*"
    assert "https:" not in safe.plain("see https://evil.example now")
    assert safe.plain("one\n\ntwo") == "one two"
    assert safe.plain("right\u202eleft\u2066") == "rightleft"
    assert safe.web_address("javascript:alert(1)") == ""
    assert safe.web_address("https://arxiv.org/abs/1") == "https://arxiv.org/abs/1"


def test_names_from_the_url_stay_on_one_line_of_code(filled: Store) -> None:
    app = show("compare", m="a\n\n![x](http://evil.example/x.png)\n\n")
    assert app.error[0].value.startswith("Not known here: `a ![x](http://evil.example/x.png)`.")
    assert safe.texts(["a`b", "c\r\n\r\nd", ""]) == "`ab`, `c d`, ` `"


def test_long_text_is_cut(empty: Store) -> None:
    assert len(safe.plain("x" * 10_000)) == safe.PARAGRAPH
    assert len(show("method", id="x" * 10_000).error[0].value) < 2 * safe.PARAGRAPH


@pytest.mark.parametrize("text", ["²", "1e3", "", "-", "9" * 30, "9" * 5000, "1_0", "٣", "one"])
def test_what_is_no_whole_number_is_none(text: str) -> None:
    assert safe.whole_number(text) is None
    assert safe.whole_number("-12") == -12


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"t": "²"}, "lengths has"),
        ({"t": "9" * 30}, "lengths has"),
        ({"t": "512,abc"}, "abc"),
        ({"t": "0"}, "expected a whole number"),
        ({"m": "sliding_window:window=0"}, "out of bounds"),
    ],
)
def test_run_refuses_absurd_values_of_the_url_at_the_field(empty: Store, query: dict[str, str], said: str) -> None:
    app = show("run", **({"m": "vanilla"} | query))
    assert said in app.error[0].value.replace("\\", "")
    assert app.button(key="start").disabled


def test_run_takes_an_option_that_no_number_field_can_hold(empty: Store) -> None:
    app = show("run", m=f"sliding_window:window={'9' * 26}")
    assert not app.error
    assert "9" * 26 in texts(app)


def test_a_store_that_was_replaced_is_read_anew(
    tmp_path: Path, filled_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store.sqlite"
    monkeypatch.setenv("LONGATLAS_STORE", str(path))
    plan = Plan(methods=("yarn",), lengths=(512,), measure=("speed",), phases=("prefill",))
    Store(str(path)).save(expand(plan)[0], [{"status": "oom", "reason": "planted"}], 1.0)
    app = show("results")
    assert "1 of 1 rows" in texts(app)
    for file in tmp_path.glob("store.sqlite*"):
        file.unlink()
    with closing(sqlite3.connect(filled_path)) as source, closing(sqlite3.connect(path)) as target:
        source.backup(target)
    assert "1 of 1 rows" not in texts(app.run())
    assert "yarn" not in set(app.dataframe[0].value["method"])


def test_a_locked_store_is_a_message_where_it_was_clicked(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(*_: object) -> None:
        raise OperationalError("update", {}, Exception("database is locked"))

    job = jobs.submit(filled, Plan(methods=("alibi",)), start=False)
    app = show("jobs", job=str(job.id))
    monkeypatch.setattr(jobs, "cancel", locked)
    app.button(key="cancel").click().run()
    assert "database is locked" in app.error[0].value
    app = show("run", m="vanilla", t="128")
    monkeypatch.setattr(jobs, "submit", locked)
    app.button(key="start").click().run()
    assert "database is locked" in app.error[0].value
    monkeypatch.undo()
    jobs.cancel(filled, job.id)


def frame_with(app: AppTest, column: str) -> pd.DataFrame:
    """The first table of a page that has a column."""
    return next(element.value for element in app.dataframe if column in element.value)


def charts_of(app: AppTest) -> list[Any]:
    return list(app.get("arrow_vega_lite_chart") or app.get("vega_lite_chart"))


def test_compare_shows_cards_failures_and_plots(filled: Store) -> None:
    app = show("compare", m="vanilla,transformer_xl")
    assert set(frame_with(app, "reason")["status"]) == {"oom", "timeout", "skipped"}
    cards = frame_with(app, "fact").set_index("fact")
    assert cards.loc["≠ time"].tolist() == ["T^2", "T*(M+N)"]
    assert cards.loc["training"].tolist() == ["train", "train"]
    assert len(charts_of(app)) >= 7


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
    empty.save(cell, [{"status": "crash", "reason": "planted"}], 1.0)
    app = show("retrieval", m="vanilla")
    assert "Every cell of this task failed" in texts(app)
    assert frame_with(app, "reason")["reason"].tolist() == ["planted"]
    (better,) = expand(plan.with_values({"preset": "demo"}))
    empty.save(better, [{"metric": "accuracy", "value": 1.0, "T": 128}], 1.0)
    empty.save(cell, [{"status": "crash", "reason": "again"}], 1.0)
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
    app.button(key="find_footprint").click().run(timeout=120)
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
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout)["hash"] == told[1]
    yaml = next(code.value for code in app.code if code.value.startswith("methods:\n"))
    assert plan_from_yaml(yaml).hash == told[1]


def test_compare_says_which_methods_it_does_not_know(filled: Store) -> None:
    app = show("compare", m="vanilla,nothing_at_all")
    assert "nothing_at_all" in app.error[0].value
    assert app.multiselect(key="compare_methods").value == ["vanilla"]


def test_compare_offers_to_run_what_is_missing(filled: Store) -> None:
    app = show("compare", m="vanilla,yarn+sliding_window")
    assert "yarn+sliding_window" in app.info[0].value


def test_run_counts_cells_and_gives_the_same_plan(filled: Store) -> None:
    app = show("run", m="vanilla,alibi", t="512,1024", w="speed")
    assert [metric.value for metric in app.metric] == ["12", "12", "0"]  # and no estimate of nothing
    plan = Plan(methods=("vanilla", "alibi"), lengths=(512, 1024), measure=("speed",))
    assert plan.hash in texts(app)
    assert "longatlas run --methods vanilla,alibi --measure speed --lengths 512,1024" in texts(app)


def test_run_shows_an_error_at_its_field(empty: Store) -> None:
    app = show("run", m="vanilla")
    app.multiselect(key="run_methods").set_value(["vanila"]).run()
    assert "did you mean" in app.error[0].value.replace("\\", "")
    assert app.button(key="start").disabled
    app.multiselect(key="run_methods").set_value(["yarn+alibi"]).run()
    assert "fill the slot" in app.error[0].value
    app.multiselect(key="run_methods").set_value(["vanilla"]).run()
    app.number_input(key="run_head_size").set_value(7).run()
    assert "even" in app.error[0].value
    app.number_input(key="run_head_size").set_value(32).run()
    app.text_input(key="run_corpus").set_value("/nowhere/at/all").run()
    assert "does not exist" in app.error[0].value


def test_run_draws_options_and_their_values_reach_the_plan(empty: Store) -> None:
    app = show("run", m="infini_attention")
    app.selectbox(key="run_o_infini_attention_infini_attention_update").set_value("delta").run()
    assert "--methods infini_attention:update=delta" in texts(app)


def test_run_submits_once_and_shows_the_job(empty: Store) -> None:
    app = show("run", m="vanilla", t="128", w="speed", p="prefill")
    app.button(key="start").click().run()
    assert not app.exception
    assert "Job 1" in texts(app)
    assert [job.plan.lengths for job in jobs.jobs(empty)] == [(128,)]


def test_jobs_shows_the_grid_and_cancels(filled: Store) -> None:
    job = jobs.submit(filled, Plan(methods=("vanilla",), lengths=(512, 4096)), start=False)
    app = show("jobs", job=str(job.id))
    assert "out of memory (1)" in texts(app)
    app.button(key="cancel").click().run()
    assert jobs.job(filled, job.id).status == jobs.CANCELLED


def test_a_cancelled_job_runs_again_as_a_new_one(filled: Store) -> None:
    old = jobs.submit(filled, Plan(methods=("yarn",), lengths=(64,)), start=False)
    jobs.cancel(filled, old.id)
    app = show("jobs", job=str(old.id))
    app.button(key="again").click().run()
    new = jobs.jobs(filled)[0]
    assert (new.status, new.plan) == (jobs.QUEUED, old.plan)
    assert f"Job {new.id}" in texts(app)
    jobs.cancel(filled, new.id)


def test_what_failed_in_a_job_is_tried_again(filled: Store) -> None:
    old = jobs.submit(filled, Plan(methods=("vanilla",), lengths=(512, 4096), measure=("speed",)), start=False)
    jobs.update(filled, old.id, status=jobs.DONE)
    app = show("jobs", job=str(old.id))
    assert app.button(key="retry").label == "Retry the 1 failed"
    app.button(key="retry").click().run()
    new = jobs.jobs(filled)[0]
    assert (new.status, new.plan, new.retry) == (jobs.QUEUED, old.plan, True)
    jobs.cancel(filled, new.id)


@pytest.mark.parametrize("number", ["999", "abc", "-1", "²", "9" * 30, "<b>x</b>"])
def test_jobs_says_what_an_unknown_job_is(filled: Store, number: str) -> None:
    jobs.cancel(filled, jobs.submit(filled, Plan(methods=("alibi",)), start=False).id)
    error = show("jobs", job=number).error[0].value
    assert number in error.replace("\\", "")


def test_results_filters_and_keeps_provenance(filled: Store) -> None:
    app = show("results")
    app.multiselect(key="s").set_value(["oom"]).run()
    shown = app.dataframe[0].value
    assert shown["reason"].tolist() == ["needs 3.1 GiB, more than the 2.0 GiB allowed"]
    assert {"machine", "versions", "source", "cell", "seed"} <= set(shown.columns)


@pytest.mark.parametrize("page", [page for page in PAGES if page not in ("taxonomy", "methodology")])
def test_a_store_that_is_gone_is_named_and_not_made_anew(empty: Store, page: str) -> None:
    app = show(page, id="vanilla") if page == "method" else show(page)
    assert not app.error
    empty.engine.dispose()
    for file in Path(empty.name).parent.glob("empty.sqlite*"):
        file.unlink()
    assert "is gone; it was there when the dashboard was started" in app.run().error[0].value.replace("\\", "")
    assert not Path(empty.name).exists()


def test_a_store_of_a_later_version_says_what_to_do(empty: Store) -> None:
    empty.remember("version", "99")
    assert "install a newer longatlas" in show("results").error[0].value


def test_read_only_hides_run_and_cancel(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    job = jobs.submit(filled, Plan(methods=("alibi",)), start=False)
    monkeypatch.setenv("LONGATLAS_DASHBOARD_READ_ONLY", "1")
    app = show("jobs", job=str(job.id))
    assert not [button for button in app.button if button.key == "cancel"]
    with pytest.raises(ValueError, match="registered"):
        app.switch_page("views/run.py")
    jobs.cancel(filled, job.id)


@pytest.mark.parametrize("page", PAGES)
def test_without_the_token_no_page_runs(filled: Store, monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    monkeypatch.setenv("LONGATLAS_DASHBOARD_TOKEN", "correct horse")
    app = show(page)
    assert [element.value for element in app.title] == ["longatlas"]
    assert [field.label for field in app.text_input] == ["Token"]
    assert not app.metric
    assert not app.dataframe
    assert not app.header
    assert not app.subheader


def test_the_token_opens_the_dashboard(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGATLAS_DASHBOARD_TOKEN", "correct horse")
    app = AppTest.from_file(str(APP), default_timeout=30).run()
    app.text_input[0].set_value("wrong")
    app.button[0].click().run()
    assert "not the token" in app.error[0].value
    app.text_input[0].set_value("correct horse")
    app.button[0].click().run()
    assert app.metric
    assert show("home", token="correct horse").metric
    assert not gate.matches("correct hors", "correct horse")


def test_nothing_is_html() -> None:
    for path in APP.parent.rglob("*.py"):
        source = path.read_text()
        for banned in ("unsafe_allow" + "_html", "st.ht" + "ml", "components.v1", "shell=True", "pickle"):
            assert banned not in source, f"{path.name} uses {banned}"


def test_method_computes_its_influence_map_once(empty: Store) -> None:
    app = show("method", id="sliding_window")
    assert "window=8" not in texts(app)
    app.button(key="find_influence").click().run(timeout=90)
    assert not app.exception
    assert not app.error
    assert "sliding_window:window=8" in texts(app)
    again = show("method", id="sliding_window")
    assert "sliding_window:window=8" in texts(again)
    assert again.button(key="find_influence").label == "Again"


def test_method_says_why_a_map_cannot_be_had(empty: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(findings.KINDS, "influence", 0.05)
    app = show("method", id="vanilla")
    app.button(key="find_influence").click().run(timeout=90)
    assert not app.exception
    assert "was ended" in app.error[0].value


def test_a_read_only_method_page_computes_nothing(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGATLAS_DASHBOARD_READ_ONLY", "1")
    app = show("method", id="vanilla")
    assert not [button for button in app.button if button.key and button.key.startswith("find_")]
    assert "longatlas influence vanilla" in texts(app)


def test_home_answers_which_method_and_says_what_is_not_measured(filled: Store) -> None:
    app = show("home", T="1024", train="no", exact="yes")
    words = texts(app)
    table = frame_with(app, "why")
    assert set(table["method"]) == {"vanilla", "flash_attention"}
    left_out = app.dataframe[1].value.set_index("method")["why"]
    assert left_out["alibi"] == "computes something else than vanilla attention"
    assert "the fastest" in words
    app = show("home", T="16384")
    assert "Nothing that was measured fits" in app.warning[0].value
    command = next(code.value for code in app.code if "--lengths 16384" in code.value)
    assert command.startswith("longatlas run --methods vanilla,")
    app = show("home", device="cuda")
    assert "--device cuda" in texts(app)


def test_home_answers_from_this_machine_alone_and_despite_methods_that_are_gone(tmp_path: Path, empty: Store) -> None:
    plan = Plan(methods=("vanilla",), lengths=(1024, 4096), measure=("speed",), phases=("prefill",))
    for cell in expand(plan):
        empty.save(cell, [{"metric": "prefill_ms", "value": 1.0, "unit": "ms"}], 1.0)
        empty.save(replace(cell, method="gone"), [{"metric": "prefill_ms", "value": 1.0, "unit": "ms"}], 1.0)
    app = show("home")
    assert not app.error
    assert app.dataframe[1].value.set_index("method")["why"]["gone"] == "its plugin is not installed"
    export_rows(empty.rows(samples=True).assign(machine="another"), tmp_path / "rows.json")
    with empty.writing() as connection:
        connection.execute(sa.delete(CELLS))
    import_rows(empty, read_rows(tmp_path / "rows.json"), "x")
    assert "No time has been measured on `cpu` here yet." in texts(show("home"))


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
            store.save(replace(cell, source=source), [row], 1.0)
            with store.writing() as connection:
                moved = sa.update(CELLS).where(CELLS.c.key == replace(cell, source=source).key)
                connection.execute(moved.values(finished=1.7e9 + seconds))
    app = show("results", two="true")
    assert not app.error
    changed = frame_with(app, "verdict")
    assert changed[["baseline", "candidate", "verdict"]].values.tolist() == [[4.0, 8.0, "worse"]] * 2
    assert "Choose two different runs" in show("results", two="true", a="1700000000", b="1700000000").info[0].value
    assert not show("results", two="true", a="shipped").error


def test_an_upload_is_checked_and_taken_in_once(filled_path: Path, empty: Store, tmp_path: Path) -> None:
    rows = Store(str(filled_path)).rows(methods=("alibi",), latest=True, samples=True)
    for suffix in ("csv", "json", "parquet"):
        path = tmp_path / f"rows.{suffix}"
        export_rows(rows, path)
        assert len(uploads.rows(f"../../{path.name}", path.read_bytes())) == len(rows)
    app = show("results")
    app.get("file_uploader")[0].upload("rows.json", (tmp_path / "rows.json").read_bytes()).run()
    assert "`alibi`" in texts(app)
    app.button(key="import").click().run()
    assert "cells imported" in app.success[0].value
    assert len(empty.rows()) == len(rows)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.exe", b"MZ", "it must be .csv, .json or .parquet"),
        ("x.pickle", b"cos\nsystem", "it must be .csv, .json or .parquet"),
        ("x.parquet", b"PAR1 no", "cannot be read as PARQUET"),
        ("x.json", b'[{"method": "<script>"}]', "row 1"),
        ("x.csv", b"a,b\n1,2\n", "column"),
        ("x.json", b"{", "cannot be read as JSON"),
    ],
)
def test_an_upload_that_is_no_rows_is_named(name: str, content: bytes, said: str) -> None:
    with pytest.raises(LongAtlasError, match=re.escape(said)) as error:
        uploads.rows(name, content)
    assert "tmp" not in str(error.value)


def test_taxonomy_has_the_surveys_tables_of_evaluation_and_toolkits(empty: Store) -> None:
    evaluation, toolkits = (frame_with(show("taxonomy", view=view), "address") for view in ("evaluation", "toolkits"))
    atlas = catalog.load_catalog().taxonomy
    assert len(evaluation) == len(atlas.evaluation.resources)
    assert set(toolkits["name"]) == {resource.name for resource in atlas.toolkits.resources}
    table = show("taxonomy", **{"as": "table", "part": "position", "s": "runnable"})
    shown = next(frame for frame in (e.value for e in table.dataframe) if "page" in frame)
    assert "method?id=yarn" in set(shown["page"])
    assert set(shown["status"]) == {"runnable"}


def test_run_estimates_time_and_memory_and_refuses_what_cannot_fit(filled: Store) -> None:
    app = show("run", m="vanilla", t="8192", w="memory", p="prefill")
    values = {metric.label: metric.value for metric in app.metric}
    assert values["To measure"] == "1"
    assert values["Time, about"] == "1 s"
    assert "MiB" in values["Peak memory, about"]
    assert not app.button(key="start").disabled
    app = show("run", m="vanilla", t=str(1 << 34), w="memory", p="prefill")
    assert "It cannot fit" in app.error[0].value
    assert app.button(key="start").disabled
    unknown = show("run", m="yarn", t="512", w="speed", p="prefill")
    assert "rule of thumb" in texts(unknown)


def test_estimates_are_of_the_same_implementation_machine_and_threads(empty: Store) -> None:
    plan = Plan(methods=("vanilla",), measure=("speed",), phases=("prefill",), lengths=(512,), threads=1)
    (cell,) = expand(plan)
    longer = expand(plan.with_values({"lengths": (1024,)}))
    empty.save(cell, [{"metric": "prefill_ms", "value": 1.0}], 77.0)
    assert estimate(empty, plan, longer).seconds == 77.0
    for changes in ({"impl": "reference"}, {"threads": 2}, {"dtype": "float64"}):
        other = plan.with_values({"lengths": (1024,), **changes})
        assert estimate(empty, other, expand(other)).guessed == 1, changes
    with empty.writing() as connection:
        connection.execute(sa.update(SETTINGS).values(machine="another"))
    assert estimate(empty, plan, longer).guessed == 1


def test_plots_begin_with_the_setting_that_has_most_of_the_methods(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGATLAS_STORE", str(tmp_path / "store.sqlite"))
    store = Store(str(tmp_path / "store.sqlite"))
    plan = Plan(methods=("vanilla", "alibi"), lengths=(512, 1024), measure=("speed",), phases=("prefill",), layers=1)
    for chosen in (plan, plan.with_values({"layers": 3, "methods": ("vanilla",)})):
        for cell in expand(chosen):
            store.save(cell, [{"metric": "prefill_ms", "value": 1.0, "unit": "ms", "n": 5}], 1.0)
    app = show("scaling", m="vanilla,alibi")
    assert "layers 1" in app.selectbox(key="on").options[app.selectbox(key="on").index]
    assert set(frame_with(app, "time claimed")["method"]) == {"vanilla", "alibi"}
    alone = show("scaling", m="vanilla")
    assert "layers 3" in alone.selectbox(key="on").options[alone.selectbox(key="on").index]


BREAKING = """
from longatlas import Attention, Method

def mask(config):
    return Attention(mask_mod=lambda b, h, q_idx, kv_idx: q_idx - kv_idx < 8)

METHOD = Method(name="breaking", title="Breaking", family="misc/parallelism", summary="x", fills={"attention": mask})
"""


@pytest.fixture
def breaking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of a plugin that is loaded; the test breaks it."""
    path = tmp_path / "breaking_plugin.py"
    path.write_text(BREAKING)
    monkeypatch.syspath_prepend(str(tmp_path))
    atlas = with_plugins(Plugin("breaking", "1", "breaking", (importlib.import_module("breaking_plugin").METHOD,)))
    monkeypatch.setattr(catalog, "load_catalog", lambda: atlas)
    monkeypatch.setattr(combination, "load_catalog", lambda: atlas)
    yield path
    sys.modules.pop("breaking_plugin", None)


def test_a_plugin_that_breaks_between_two_reruns_is_told(empty: Store, breaking: Path) -> None:
    app = show("method", id="breaking")
    assert not app.error
    breaking.write_text("this is no python")
    app.button(key="find_influence").click().run(timeout=90)
    assert not app.exception
    assert "longatlas influence breaking" in app.error[0].value.replace("\\", "")
    breaking.unlink()
    app.run()
    assert not app.exception
    assert "install its plugin again" in app.error[0].value
    assert "install its plugin again" in show("run", m="breaking").error[0].value
