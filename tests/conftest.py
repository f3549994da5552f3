"""The limit of a test's time, on this machine as it is now."""

from __future__ import annotations

import pace
import pytest

LIMIT = 300


@pytest.hookimpl(tryfirst=True, hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item):
    """Give a test more time than pytest-timeout would where the machine is busy."""
    if item.config.pluginmanager.hasplugin("timeout") and item.get_closest_marker("timeout") is None:
        item.add_marker(pytest.mark.timeout(pace.seconds(LIMIT)))
    yield
