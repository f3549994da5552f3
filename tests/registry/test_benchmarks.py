"""The pytest-benchmark comparisons: groups, stable names, save and compare."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def compare(storage: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "tests/benchmarks/test_methods.py", "--benchmark-only", "-p", "no:xdist"]
    narrow = ["--longatlas-methods", "vanilla,passage_selection", "--longatlas-lengths", "64"]
    quick = ["--longatlas-budget", "0.05", f"--benchmark-storage={storage}"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        [*command, *narrow, *quick, *options], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[Path, str]:
    storage = tmp_path_factory.mktemp("benchmarks")
    done = compare(storage, "--benchmark-save=before", "-rs")
    assert done.returncode == 0, done.stdout + done.stderr
    return storage, done.stdout


def test_groups_by_phase_and_length(saved):
    for phase in ("train", "prefill", "decode"):
        assert f"benchmark '{phase} T=64'" in saved[1]


def test_saved_samples_are_the_workers(saved):
    (file,) = saved[0].rglob("*_before.json")
    stored = {b["fullname"]: b for b in json.loads(file.read_text())["benchmarks"]}
    assert "longatlas::vanilla::T64::train" in stored
    bench = stored["longatlas::vanilla::T64::prefill"]
    assert bench["stats"]["rounds"] >= 5
    assert 0 < bench["stats"]["min"] <= bench["stats"]["median"] <= bench["stats"]["max"] < 60
    assert bench["extra_info"]["impl"] == "torch"


def test_a_case_that_cannot_run_is_skipped_with_its_reason(saved):
    assert "unsupported: a context method is put around a trained decoder" in saved[1]


def test_compare_shows_both_runs(saved):
    done = compare(saved[0], "--benchmark-compare=0001", "-k", "vanilla and decode")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "vanilla (0001_before)" in done.stdout
    assert "vanilla (NOW)" in done.stdout
