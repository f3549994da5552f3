"""Takes a picture of every page of the dashboard in both themes, by a browser on this machine.

python docs/make_screenshots.py [--store STORE] [--out FOLDER] [--width 1440] [--only NAME]
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
READY = '[data-testid="stApp"][data-test-connection-state="CONNECTED"][data-test-script-state="notRunning"]'
# name of the picture -> address below the dashboard's
PAGES = {
    "home": "",
    "taxonomy": "taxonomy",
    "method": "method?id=infini_attention",
    "compare": "compare",
    "scaling": "scaling",
    "memory": "memory",
    "trade_off": "trade_off",
    "retrieval": "retrieval",
    "run": "run?m=vanilla,infini_attention",
    "jobs": "jobs",
    "results": "results",
    "methodology": "methodology",
}
# Pictures that README shows: of these the upper part only.
README = {"taxonomy": "light", "scaling": "dark"}
README_HEIGHT = 900


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store")
    parser.add_argument("--out", type=Path, default=Path("build/screenshots"))
    parser.add_argument("--width", type=int, default=1440)
    parser.add_argument("--only", action="append", choices=list(PAGES))
    parser.add_argument("--readme", action="store_true", help="also make the two pictures of README anew")
    given = parser.parse_args()
    browser_path = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser_path is None:
        sys.exit("there is no chromium; on Debian: apt install chromium")
    given.out.mkdir(parents=True, exist_ok=True)
    with served(given.store) as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, args=list(FLAGS))
        for theme in ("light", "dark"):
            context = browser.new_context(viewport={"width": given.width, "height": 900}, color_scheme=theme)
            page = context.new_page()
            for name in given.only or PAGES:
                path = given.out / f"{name}-{theme}.png"
                take(page, f"{address}/{PAGES[name]}", path, given.width)
                print(path)
                if given.readme and README.get(name) == theme:
                    for_readme(path)
            context.close()
        browser.close()


def take(page: Any, url: str, path: Path, width: int) -> None:
    """The whole page, however long: the window grows to it, for the page itself does not scroll."""
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(url)
    page.wait_for_selector(READY)
    page.get_by_test_id("stHeading").first.wait_for()
    page.wait_for_timeout(1200)
    height = page.evaluate("() => document.querySelector('[data-testid=stMain]').scrollHeight")
    page.set_viewport_size({"width": width, "height": max(900, min(height, 6000))})
    page.wait_for_timeout(800)
    page.screenshot(path=path)


def for_readme(path: Path) -> None:
    picture = Image.open(path).convert("RGB")
    cut = picture.crop((0, 0, picture.width, min(README_HEIGHT, picture.height)))
    cut.quantize(128).save(Path(__file__).with_name(path.name), optimize=True)


@contextmanager
def served(store: str | None) -> Iterator[str]:
    """A dashboard of the store."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "longatlas", "dashboard", "--port", str(port)]
    process = subprocess.Popen(
        command + (["--store", store] if store else []),
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.wait(15)


if __name__ == "__main__":
    main()
