"""A table of the ratios at the end of a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from large_store import store  # noqa: F401

RATIOS = pytest.StashKey[list[tuple[str, float, float]]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RATIOS] = []


@pytest.fixture
def ratios(request: pytest.FixtureRequest) -> list[tuple[str, float, float]]:
    """Name, ratio and target of each comparison that was made."""
    return request.config.stash[RATIOS]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    made = config.stash[RATIOS]
    if made:
        terminalreporter.section("ratios in one process")
        for name, ratio, target in made:
            mark = "reached" if ratio >= target else "MISSED"
            terminalreporter.write_line(f"{name:<62} {ratio:6.2f}x   target {target:g}x   {mark}")
