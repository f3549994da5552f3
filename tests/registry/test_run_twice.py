"""A second `longatlas run` of the same plan, in a fresh process, measures nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pace

PLAN = ("--methods", "yarn", "--lengths", "16", "--phases", "prefill", "--budget", "0.01", "--threads", "1")
TASK = ("--tasks", "mqar", "--preset", "smoke", "--json")


def rows(store: Path) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "longatlas", "run", *PLAN, *TASK, "--store", str(store)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=pace.seconds(300))
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_speed_memory_and_quality_are_measured_once(tmp_path: Path) -> None:
    first, second = rows(tmp_path / "s.sqlite"), rows(tmp_path / "s.sqlite")
    assert {row["measure"] for row in first} == {"speed", "memory", "quality"}
    assert {row["status"] for row in first} == {"ok"}
    assert second == first
    assert len({row["cell"] for row in first}) == 3
    assert {row["versions"]["torch"] for row in first} != {""}
