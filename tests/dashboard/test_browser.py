"""A real browser: from the taxonomy to a finished run, with a reload in the middle; nothing leaves the machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium; on Debian: apt install chromium"),
]
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
READY = '[data-testid="stApp"][data-test-connection-state="CONNECTED"][data-test-script-state="notRunning"]'


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A dashboard with an empty store of its own."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("dashboard")
    store = str(folder / "store.sqlite")
    process = subprocess.Popen(
        [sys.executable, "-m", "longatlas", "dashboard", "--port", str(port), "--store", store],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_STATE_HOME": str(folder), "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    yield process.stdout.readline().split()[-1]
    from longatlas.harness import jobs
    from longatlas.store import Store

    jobs.stop_supervisor(Store(store))
    process.terminate()
    process.wait(15)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page; the test fails when anything was asked of another host."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    opened = context.new_page()
    foreign: list[str] = []
    opened.on("request", lambda request: foreign.append(request.url) if is_foreign(request.url) else None)
    opened.set_default_timeout(30_000)
    yield opened
    context.close()
    assert foreign == []


def is_foreign(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme not in ("data", "blob") and parts.hostname != "127.0.0.1"


def visit(page: Any, url: str) -> None:
    page.goto(url)
    page.wait_for_selector(READY)


def test_from_the_taxonomy_to_a_finished_run(page: Any, address: str) -> None:
    visit(page, f"{address}/taxonomy")
    page.locator('[aria-label^="Preliminaries: "]').click()
    page.wait_for_url(re.compile("node=preliminaries"))
    page.get_by_role("link", name="Vanilla Transformer").click()
    page.wait_for_url(re.compile("/method.*id=vanilla"))
    page.get_by_role("link", name="Run it").click()
    page.wait_for_url(re.compile("/run.*m=vanilla"))
    for pill in ("memory", "quality", "train", "decode"):
        page.get_by_test_id("stButtonGroup").get_by_role("button", name=pill, exact=True).click()
    page.get_by_text("--measure speed --phases prefill").wait_for()
    page.get_by_test_id("stBaseButton-primary").click()
    page.wait_for_url(re.compile(r"/jobs.*job=1"))
    page.get_by_text("measuring vanilla prefill").wait_for()
    page.reload()
    page.wait_for_selector(READY)
    page.get_by_text(re.compile(r"\d of 4 cells")).first.wait_for()
    page.get_by_text("4 of 4 cells · done").wait_for(timeout=90_000)
    page.get_by_role("link", name="Compare its methods").click()
    page.locator('[aria-label^="vanilla, T = 512: "]').wait_for()


NAMES = ("", "taxonomy", "method?id=infini_attention", "compare", "run", "jobs", "results", "methodology")


@pytest.mark.parametrize("width", [390, 1440])
def test_no_page_overflows_or_fails(browser: Any, address: str, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme="dark")
    page = context.new_page()
    foreign: list[str] = []
    page.on("request", lambda request: foreign.append(request.url) if is_foreign(request.url) else None)
    for name in NAMES:
        visit(page, f"{address}/{name}")
        page.get_by_test_id("stHeading").first.wait_for()
        wide = page.evaluate(
            "() => { const m = document.querySelector('[data-testid=stMain]'); return m.scrollWidth - m.clientWidth }"
        )
        assert wide <= 0, name
        assert page.get_by_test_id("stException").count() == 0, name
    context.close()
    assert foreign == []
