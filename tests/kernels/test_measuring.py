"""The program of `make gpu`, with tiny shapes: what it stores, and that every impl and peer has its row."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_case_has_its_rows(tmp_path: Path) -> None:
    path = os.pathsep.join(str(ROOT / folder) for folder in ("registry", "plugins"))
    command = [sys.executable, str(ROOT / "docs" / "measure_kernels.py"), "--smoke", "--out", str(tmp_path)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    stored = json.loads((tmp_path / "kernels.json").read_text())
    assert stored["copy_bytes_per_s"] > 0
    assert stored["versions"]["torch"]
    by_case: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for row in stored["rows"]:
        by_case.setdefault((row["case"], row["phase"]), {})[row["name"]] = row
    assert {phase for _, phase in by_case} == {"forward", "forward_backward", "decode"}
    assert len({case for case, _ in by_case}) == 6
    for rows in by_case.values():
        assert {"triton", "torch"} <= set(rows)
        assert rows["triton"]["times_triton"] == 1.0
        for row in rows.values():
            assert row["status"] == "ok", row
            assert row["floor_s"] > 0
            assert row["p20_s"] <= row["median_s"] <= row["p80_s"]


def test_without_a_gpu_it_says_what_to_do(tmp_path: Path) -> None:
    path = os.pathsep.join(str(ROOT / folder) for folder in ("registry", "plugins"))
    environment = {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(ROOT / "docs" / "measure_kernels.py"), "--out", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "torch finds no GPU here; --smoke tries the program" in done.stderr
