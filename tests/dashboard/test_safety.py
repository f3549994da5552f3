"""Text of plugins and of the URL stays text, uploads are checked, the token and read-only hold."""

from __future__ import annotations

import re
from pathlib import Path

import pace
import pytest
from showing import APP, PAGES, show, texts, with_plugins
from streamlit.testing.v1 import AppTest

from longatlas import catalog
from longatlas.cards import Cost, Method, Option
from longatlas.errors import LongAtlasError
from longatlas.harness import jobs
from longatlas.harness.plan import Plan
from longatlas.plugins import Plugin
from longatlas.store import Store
from longatlas.store.transfer import export_rows
from longatlas_dashboard import gate, safe, uploads

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


def test_read_only_hides_run_and_cancel(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    job = jobs.submit(filled, Plan(methods=("alibi",)), start=False)
    monkeypatch.setenv("LONGATLAS_DASHBOARD_READ_ONLY", "1")
    app = show("jobs", job=str(job.id))
    assert not [button for button in app.button if button.key == "cancel"]
    assert "Run" not in [link.proto.label for link in app.get("page_link")]
    shared = show("run", m="vanilla")
    assert "Start it without `--read-only`" in texts(shared)
    assert not shared.button
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
    app = AppTest.from_file(str(APP), default_timeout=pace.seconds(30)).run()
    app.text_input[0].set_value("wrong")
    app.button[0].click().run()
    assert "not the token" in app.error[0].value
    app.text_input[0].set_value("correct horse")
    app.button[0].click().run()
    assert app.metric
    assert show("home", token="correct horse").metric
    assert not gate.matches("correct hors", "correct horse")


def test_the_token_goes_from_the_address_and_the_session_stays_known(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGATLAS_DASHBOARD_TOKEN", "correct horse")
    app = show("home", token="correct horse", other="kept")
    assert app.metric
    assert app.query_params == {"other": "kept"}
    assert app.run().metric
    wrong = show("home", token="correct hors")
    assert not wrong.metric
    assert wrong.query_params == {"token": "correct hors"}


def test_nothing_is_html() -> None:
    for path in APP.parent.rglob("*.py"):
        source = path.read_text()
        for banned in ("unsafe_allow" + "_html", "st.ht" + "ml", "components.v1", "shell=True", "pickle"):
            assert banned not in source, f"{path.name} uses {banned}"


def test_a_read_only_method_page_computes_nothing(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGATLAS_DASHBOARD_READ_ONLY", "1")
    app = show("method", id="vanilla")
    assert not [button for button in app.button if button.key and button.key.startswith("find_")]
    assert "longatlas influence vanilla" in texts(app)


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
