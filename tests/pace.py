"""Limits of time in tests: given in seconds of a quiet machine, and longer where this one is slow or busy.

A limit is there so that what hangs fails; it must not fail what is only late.
"""

from __future__ import annotations

import os
import time

WORK = 100_000
QUIET_SECONDS = 0.0125  # of that work on a quiet core
FRESH_SECONDS = 5.0  # for which a measurement is good

_measured = {"at": -FRESH_SECONDS, "factor": 1.0}


def seconds(quiet: float) -> float:
    """So many seconds, times how much longer work takes here now."""
    if time.monotonic() - _measured["at"] > FRESH_SECONDS:
        _measured.update(factor=_factor(), at=time.monotonic())
    return quiet * _measured["factor"]


def _factor() -> float:
    """By a measured piece of work, and by how many processes wait for a core."""
    start, total = time.perf_counter(), 0
    for number in range(WORK):
        total += number * number
    spent = time.perf_counter() - start
    return max(1.0, spent / QUIET_SECONDS, os.getloadavg()[0] / (os.cpu_count() or 1))
