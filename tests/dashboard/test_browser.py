"""A real browser: from the taxonomy to a finished run, with a reload in the middle; nothing leaves the machine."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pace
import pytest

from longatlas.harness import jobs
from longatlas.harness.plan import Plan
from longatlas.store import Store
from longatlas.store.transfer import export_rows, import_rows, read_rows

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
NAMES = (
    "", "taxonomy", "method?id=infini_attention", "compare", "scaling", "memory", "trade_off", "retrieval?task=passkey",
    "run?m=vanilla,infini_attention", "jobs", "results", "methodology",
)  # fmt: skip
EVIL = "<img src='http://evil.example/x.png' onerror=alert(1)> [x](javascript:alert(1))"
# What can be reached by Tab: seen, enabled, and one of each group that arrow keys walk.
MARK_CONTROLS = """() => {
  const found = [...document.querySelectorAll('a[href], button, input, select, textarea, summary, [tabindex="0"]')]
    .filter(e => e.tabIndex >= 0 && !e.disabled && e.checkVisibility({visibilityProperty: true, opacityProperty: true}))
    .filter(e => e.type !== 'radio' && e.getAttribute('role') !== 'radio' && e.getAttribute('role') !== 'tab')
    .filter(e => !e.matches('[data-variant]'))
    .filter(e => e.getBoundingClientRect().width > 1);
  found.forEach(e => e.setAttribute('data-wanted', '1'));
  return found.length;
}"""
MISSED_CONTROLS = """() =>
  [...document.querySelectorAll('[data-wanted]:not([data-reached])')].map(e => e.outerHTML.slice(0, 200))"""
# What is drawn after a page's script has ended: nothing has changed in four looks, one after the other.
SETTLED = """() => {
  const before = window.__before, now = document.body.innerHTML;
  window.__before = now;
  window.__same = before === now ? (window.__same || 0) + 1 : 0;
  return window.__same >= 3;
}"""
READY = '[data-testid="stApp"][data-test-connection-state="CONNECTED"][data-test-script-state="notRunning"]'


@contextmanager
def served(folder: Path, store: Path) -> Iterator[str]:
    """A dashboard of a store: its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "longatlas", "dashboard", "--port", str(port), "--store", str(store)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_STATE_HOME": str(folder), "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[-1]
    finally:
        jobs.stop_supervisor(Store(str(store)))
        process.terminate()
        process.wait(pace.seconds(15))


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("empty") / "store.sqlite"


@pytest.fixture(scope="module")
def address(empty_store: Path) -> Iterator[str]:
    """A dashboard with an empty store of its own."""
    with served(empty_store.parent, empty_store) as found:
        yield found


@pytest.fixture(scope="module")
def filled_address(filled_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A dashboard with made rows, one method of which has a name that must stay text, and an ended job."""
    folder = tmp_path_factory.mktemp("filled")
    store = Store(str(folder / "store.sqlite"))
    rows = Store(str(filled_path)).rows(latest=True, samples=True)
    evil = rows[rows["method"] == "alibi"].assign(method=EVIL)
    evil["cell"] = [f"x{cell}" for cell in evil["cell"]]
    for number, frame in enumerate((rows, evil)):
        export_rows(frame, folder / f"{number}.json")
        import_rows(store, read_rows(folder / f"{number}.json"), "made")
    job = jobs.submit(store, Plan(methods=("vanilla",)), start=False)
    jobs.update(store, job.id, status=jobs.DONE, done=9, total=9)
    with served(folder, folder / "store.sqlite") as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page; the test fails when anything was asked of another host."""
    context = new_context(browser, viewport={"width": 1440, "height": 1000})
    opened = context.new_page()
    foreign: list[str] = []
    opened.on("request", lambda request: foreign.append(request.url) if is_foreign(request.url) else None)
    yield opened
    context.close()
    assert foreign == []


def is_foreign(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme not in ("data", "blob") and parts.hostname != "127.0.0.1"


def new_context(browser: Any, **options: Any) -> Any:
    context = browser.new_context(**options)
    context.set_default_timeout(milliseconds(30))
    return context


def milliseconds(quiet_seconds: float) -> float:
    return 1000 * pace.seconds(quiet_seconds)


def visit(page: Any, url: str) -> None:
    """Open an address, and wait until its page is drawn whole."""
    page.goto(url)
    page.wait_for_selector(READY)
    page.get_by_test_id("stHeading").first.wait_for()
    page.wait_for_function(SETTLED, polling=100)


def reload_until(page: Any, words: re.Pattern[str]) -> None:
    """Reload until words are seen: on a machine that is busy with other tests a first look was once not enough."""
    for _ in range(3):
        page.reload()
        page.wait_for_selector(READY)
        try:
            return page.get_by_text(words).first.wait_for(timeout=milliseconds(15))
        except playwright.TimeoutError:
            print(page.inner_text("body"))
    pytest.fail(f"{words.pattern} is not on the page")


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
    reload_until(page, re.compile(r"\d of 4 cells"))
    page.get_by_text("4 of 4 cells · done").wait_for(timeout=milliseconds(90))
    page.get_by_role("link", name="Compare its methods").click()
    page.locator('[aria-label^="vanilla, T = 512: "]').wait_for()


@pytest.mark.parametrize("width", [390, 1440])
def test_no_page_overflows_or_fails_and_every_chart_is_told_in_words(
    browser: Any, filled_address: str, width: int
) -> None:
    context = new_context(browser, viewport={"width": width, "height": 900}, color_scheme="dark")
    page = context.new_page()
    foreign: list[str] = []
    page.on("request", lambda request: foreign.append(request.url) if is_foreign(request.url) else None)
    for name in NAMES:
        visit(page, f"{filled_address}/{name}")
        wide = page.evaluate(
            "() => { const m = document.querySelector('[data-testid=stMain]'); return m.scrollWidth - m.clientWidth }"
        )
        assert wide <= 0, name
        assert page.get_by_test_id("stException").count() == 0, name
        for chart in filter(lambda found: found.is_visible(), page.get_by_test_id("stVegaLiteChart").all()):
            words = chart.evaluate("e => e.getAttribute('aria-label') || e.closest('[aria-label]')?.ariaLabel || ''")
            assert len(words) > 20, name
    context.close()
    assert foreign == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_on_any_page(browser: Any, filled_address: str, theme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    context = new_context(browser, viewport={"width": 1440, "height": 4000}, color_scheme=theme)
    page = context.new_page()
    found = []
    for name in NAMES:
        visit(page, f"{filled_address}/{name}")
        for violation in axe.run(page).response["violations"]:
            if violation["impact"] in ("critical", "serious", "moderate"):
                found.append((name, violation["id"], violation["nodes"][0]["html"][:200]))
    context.close()
    assert found == []


def test_the_keyboard_alone_reaches_every_control(page: Any, filled_address: str) -> None:
    for name in ("run?m=vanilla,infini_attention", "scaling?m=vanilla,alibi", ""):
        visit(page, f"{filled_address}/{name}")
        wanted = page.evaluate(MARK_CONTROLS)
        assert wanted > 15
        for _ in range(3 * wanted):
            page.keyboard.press("Tab")
            page.evaluate("() => document.activeElement.setAttribute('data-reached', '1')")
        missed = page.evaluate(MISSED_CONTROLS)
        assert missed == [], name


def test_a_choice_stands_in_the_address_and_survives_a_reload(page: Any, filled_address: str) -> None:
    visit(page, f"{filled_address}/scaling?m=vanilla,alibi&u=ratio&p=prefill")
    page.get_by_text("Prefill time over that of vanilla").wait_for()
    page.get_by_role("radio", name="tokens/s").click()
    page.wait_for_url(re.compile("u=rate"))
    page.get_by_text("Prefill rate").wait_for()
    page.reload()
    page.wait_for_selector(READY)
    page.get_by_text("Prefill rate").wait_for()
    assert page.get_by_text("Train rate").count() == 0
    page.get_by_role("radio", name="× vanilla").click()
    page.get_by_text("Prefill time over that of vanilla").wait_for()
    page.wait_for_url(re.compile("u=ratio"))
    page.go_back()
    page.get_by_text("Prefill rate").wait_for()
    page.wait_for_url(re.compile("u=rate"))


def test_the_text_tree_leads_to_the_same_node_as_the_map(page: Any, filled_address: str) -> None:
    visit(page, f"{filled_address}/taxonomy")
    page.locator('[aria-label^="Flash Attention: "]').click()
    page.wait_for_url(re.compile("node=efficient_attention.*flash"))
    page.get_by_role("heading", name="Flash Attention").wait_for()
    cards = page.get_by_text("FlashAttention", exact=True).count()
    visit(page, f"{filled_address}/taxonomy")
    page.get_by_role("tab", name="Text tree").click()
    page.wait_for_url(re.compile("view=text"))
    page.get_by_role("button", name=re.compile(r"^Flash Attention")).click()
    page.wait_for_url(re.compile("node=efficient_attention.*flash"))
    page.get_by_role("heading", name="Flash Attention").wait_for()
    assert page.get_by_text("FlashAttention", exact=True).count() == cards > 0
    assert "view=text" in page.url
    page.get_by_role("tab", name="Evaluation").click()
    page.wait_for_url(re.compile("view=evaluation"))
    page.go_back()
    page.wait_for_url(re.compile("view=text"))
    page.get_by_role("button", name=re.compile(r"^Paged Attention")).wait_for()


def test_a_view_gives_its_rows_and_its_command(page: Any, filled_address: str, tmp_path: Path) -> None:
    visit(page, f"{filled_address}/memory?m=vanilla,alibi")
    page.get_by_text("Take it along").click()
    with page.expect_download() as caught:
        page.get_by_role("button", name="JSON").click()
    path = tmp_path / "rows.json"
    caught.value.save_as(path)
    rows = read_rows(path)
    assert {row["method"] for row in rows} == {"vanilla", "alibi"}
    assert {row["measure"] for row in rows} == {"memory"}
    page.get_by_text("longatlas run --methods vanilla,alibi --measure memory").wait_for()


def test_names_from_elsewhere_are_text(page: Any, filled_address: str) -> None:
    spoken: list[str] = []
    page.on("dialog", lambda dialog: (spoken.append(dialog.message), dialog.dismiss()))
    for name in ("compare", "scaling", "memory", "trade_off", "retrieval", "results"):
        visit(page, f"{filled_address}/{name}?m=vanilla,{quote(EVIL)}")
        assert page.locator("img[src*=evil], a[href^=javascript], script[src*=evil]").count() == 0, name
    assert spoken == []


def test_another_session_cancels_and_a_killed_process_is_told(
    page: Any, browser: Any, address: str, empty_store: Path
) -> None:
    store = Store(str(empty_store))
    plan = Plan(
        methods=("vanilla",), measure=("speed",), phases=("prefill",), lengths=(64, 128, 256, 512, 1024), budget=30.0
    )
    number = jobs.submit(store, plan).id
    visit(page, f"{address}/jobs?job={number}")
    page.get_by_text("measuring vanilla prefill T=").wait_for()
    other = new_context(browser)
    second = other.new_page()
    visit(second, f"{address}/jobs?job={number}")
    second.get_by_role("button", name="Cancel").click()
    page.get_by_text(re.compile(r"of 5 cells · cancelled")).wait_for()
    other.close()
    page.get_by_role("button", name="Run again").click()
    page.get_by_text("measuring vanilla prefill T=").wait_for()
    supervisor = jobs.supervisor(store)
    assert supervisor is not None
    os.kill(supervisor.pid, signal.SIGKILL)
    page.get_by_text("its process was killed; run it again to go on from the finished cells").wait_for()
