"""Every page with an empty store, with rows, and with a store or a plugin that goes wrong: a message with a remedy."""

from __future__ import annotations

import importlib
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pace
import pytest
from showing import PAGES, show, texts, with_plugins
from sqlalchemy.exc import OperationalError

from longatlas import catalog, combination
from longatlas.harness import jobs
from longatlas.harness.cells import expand
from longatlas.harness.plan import Plan
from longatlas.plugins import Plugin
from longatlas.store import Store


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


def test_a_store_that_was_replaced_is_read_anew(
    tmp_path: Path, filled_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store.sqlite"
    monkeypatch.setenv("LONGATLAS_STORE", str(path))
    plan = Plan(methods=("yarn",), lengths=(512,), measure=("speed",), phases=("prefill",))
    Store(str(path)).save(expand(plan)[0].record([{"status": "oom", "reason": "planted"}], 1.0))
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
    app.button(key="find_influence").click().run(timeout=pace.seconds(90))
    assert not app.exception
    assert "breaking" in app.error[0].value
    breaking.unlink()
    app.run()
    assert not app.exception
    assert "install its plugin again" in app.error[0].value
    assert "install its plugin again" in show("run", m="breaking").error[0].value
