"""Findings and `verify`: a method that hangs is ended in its time, and nothing of it outlives whoever asked."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pace
import psutil
import pytest

from longatlas.store import Store

# Deaf to SIGTERM, and a process of its own in another session beside it.
HANGS = """import signal, subprocess
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen(['setsid', 'sh', '-c', 'echo $$ > {0}; exec sleep 600'])
time.sleep(600)"""
ASK = """import sys
from longatlas.combination import parse_spec
from longatlas.harness import findings
from longatlas.store import Store
findings.find(Store(sys.argv[1]), "verify", parse_spec("hangs"))"""


@pytest.fixture
def started(planted: Callable[..., str], tmp_path: Path) -> Path:
    """A file with the number of the process that the method `hangs` starts."""
    path = tmp_path / "started"
    planted("hangs", HANGS.format(path))
    return path


def is_gone(started: Path) -> bool:
    number = int(started.read_text())
    return not psutil.pid_exists(number) or psutil.Process(number).status() == psutil.STATUS_ZOMBIE


def test_verify_ends_a_method_that_hangs_and_goes_on(started: Path, command: Callable[..., Any]) -> None:
    limit = math.ceil(pace.seconds(8))  # enough for vanilla
    done = command("verify", "hangs", "vanilla", "--timeout", str(limit), "--json")
    reports = {report["method"]: report for report in json.loads(done.stdout)}
    assert {name: report["ok"] for name, report in reports.items()} == {"hangs": False, "vanilla": True}
    assert reports["hangs"]["checks"][0]["check"] == "survives"
    assert reports["hangs"]["checks"][0]["detail"].startswith(f"not done after {limit} s, and was ended; `--timeout`")
    assert done.returncode == 1
    assert is_gone(started)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_nothing_of_a_finding_outlives_who_asked_for_it(
    started: Path, tmp_path: Path, wait: Callable[..., Any]
) -> None:
    store = Store(str(tmp_path / "store.sqlite"))
    asking = subprocess.Popen([sys.executable, "-c", ASK, store.name])
    wait(lambda: started.exists() and started.read_text().strip(), "the method did not begin")
    family = psutil.Process(asking.pid).children(recursive=True)
    assert len(family) >= 4, "the keeper, the command, what checks, and what the method started"
    asking.send_signal(signal.SIGKILL)
    asking.wait()
    wait(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family), "all are gone")
    assert is_gone(started)
