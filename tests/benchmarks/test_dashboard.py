"""How long a page takes to settle in a browser with a large store, a filter to answer, and what polling costs.

LONGATLAS_ROWS=200000 pytest tests/benchmarks/test_dashboard.py --benchmark-only
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from longatlas.harness import jobs
from longatlas.harness.plan import Plan
from longatlas.store import Store

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
READY = '[data-testid="stApp"][data-test-connection-state="CONNECTED"][data-test-script-state="notRunning"]'
TWO = "m=vanilla,sliding_window"
# page -> what it shows when it has settled
PAGES = {
    "": "[data-testid=stMetric]",
    "taxonomy": "[data-testid=stVegaLiteChart] svg",
    "method?id=vanilla": "[data-testid=stVegaLiteChart] svg",
    f"compare?{TWO}": "[data-testid=stVegaLiteChart] svg",
    f"scaling?{TWO}": "[data-testid=stVegaLiteChart] svg",
    f"memory?{TWO}": "[data-testid=stVegaLiteChart] svg",
    f"trade_off?{TWO}": "[data-testid=stVegaLiteChart] svg",
    f"retrieval?{TWO}": "[data-testid=stVegaLiteChart] svg",
    f"run?{TWO}": "[data-testid=stMetric]",
    "jobs": "[data-testid=stHeading]",
    "results": "[data-testid=stDataFrame]",
    "methodology": "[data-testid=stHeading]",
}
WATCHED_SECONDS = 20


@pytest.fixture(scope="session")
def server(store: Store) -> Iterator[tuple[str, psutil.Process]]:
    """A dashboard of the large store: its address and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "longatlas", "dashboard", "--port", str(port), "--store", store.name]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "XDG_STATE_HOME": str(Path(store.name).parent)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    address = process.stdout.readline().split()[-1]
    (child,) = psutil.Process(process.pid).children()
    yield address, child
    process.terminate()
    process.wait(15)


@pytest.fixture(scope="session")
def page() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        opened = browser.new_page(viewport={"width": 1440, "height": 1000})
        opened.set_default_timeout(60_000)
        yield opened
        browser.close()


@pytest.mark.parametrize("name", list(PAGES))
def test_page(benchmark: Any, server: tuple[str, psutil.Process], page: Any, name: str) -> None:
    """From the address to a page that is drawn and whose script has ended; its first visit is not counted."""

    def visit() -> None:
        page.goto(f"{server[0]}/{name}")
        page.wait_for_selector(READY)
        page.wait_for_selector(PAGES[name])

    benchmark.pedantic(visit, rounds=7, warmup_rounds=1)


def test_filter(benchmark: Any, server: tuple[str, psutil.Process], page: Any) -> None:
    """From a click on Results' toggle to the new count of rows."""
    page.goto(f"{server[0]}/results")
    page.wait_for_selector(READY)
    count = page.get_by_test_id("stCaptionContainer").filter(has_text=" of ").first
    toggle = page.get_by_text("Only the newest row of each measurement")

    def click() -> None:
        before = count.inner_text()
        toggle.click()
        page.wait_for_function(
            "old => ![...document.querySelectorAll('[data-testid=stCaptionContainer]')].some(e => e.innerText === old)",
            arg=before,
        )

    benchmark.pedantic(click, rounds=8, warmup_rounds=2)


@pytest.mark.parametrize("running", [False, True], ids=["idle", "polling"])
def test_share_of_a_core(
    benchmark: Any, server: tuple[str, psutil.Process], store: Store, page: Any, running: bool
) -> None:
    """CPU of the server with Jobs open, as a share of one core: in extra_info; with a running job it polls."""
    if running:
        me = psutil.Process()
        number = jobs.submit(store, Plan(methods=("vanilla",)), start=False).id
        jobs.update(store, number, status=jobs.RUNNING, pid=me.pid, pid_started=me.create_time(), total=9, done=1)
    page.goto(f"{server[0]}/jobs")
    page.wait_for_selector(READY)
    time.sleep(3)

    def watch() -> float:
        before = server[1].cpu_times()
        time.sleep(WATCHED_SECONDS)
        after = server[1].cpu_times()
        return (after.user + after.system - before.user - before.system) / WATCHED_SECONDS

    benchmark.extra_info["share_of_a_core"] = benchmark.pedantic(watch, rounds=1)
    if running:
        jobs.update(store, number, status=jobs.DONE)
