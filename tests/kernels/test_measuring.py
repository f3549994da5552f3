"""The measuring of `make gpu`, with tiny shapes: its rows, and that every impl and peer has its own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from longatlas.harness.plan import load_plans
from longatlas.store import Store
from longatlas.store.transfer import import_rows, read_rows

ROOT = Path(__file__).parents[2]
PLANS = ROOT / "docs" / "kernels.yaml"
KERNELS = {"lightning_attention2", "transformer_xl", "infini_attention"}
# What a bare machine lacks: whoever imports one of these on the way of `make gpu` fails here.
MISSING = ("sqlalchemy", "scipy", "psutil", "click", "safetensors", "streamlit", "fla")
HIDDEN = f"""
import sys
for name in {MISSING!r}:
    sys.modules[name] = None
import runpy
sys.argv = ["bare", *sys.argv[1:]]
runpy.run_module("longatlas.harness.bare", run_name="__main__")
"""


def measure(*arguments: str, plans: Path = PLANS, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(str(ROOT / folder) for folder in ("registry", "plugins"))
    command = [sys.executable, "-c", HIDDEN, str(plans), *arguments]
    return subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path, **environment}, capture_output=True, text=True, check=False
    )


def test_every_impl_and_peer_of_every_case_has_its_rows(tmp_path: Path) -> None:
    """One run for all that is told of its rows; in the interpreter only Lightning Attention's kernels, the quickest."""
    target, plans = tmp_path / "new" / "kernels.json", tmp_path / "kernels.yaml"
    plans.write_text(PLANS.read_text().replace('\n    impl: "triton,', '\n    impl: "'))
    assert {name for name, impl, _, _ in asked(PLANS) if impl == "triton"} == KERNELS
    assert {name for name, impl, _, _ in asked(plans) if impl == "triton"} == {"lightning_attention2"}
    done = measure("--smoke", "--out", str(target), "--seconds", "100000", plans=plans)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"Rows in {target}" in done.stdout
    rows: list[dict[str, Any]] = json.loads(target.read_text())
    assert {_place(row) for row in rows} == asked(plans)
    _check_numbers(rows)
    _check_import(target, tmp_path, rows)
    _check_table(rows)


def asked(plans: Path) -> set[tuple[str, str, str, str]]:
    """Method, impl, phase and measure of every cell in a file of plans."""
    found = {
        (combination.name, impl, phase, measured)
        for plan in load_plans(plans)
        for combination in plan.combinations
        for impl in plan.impls_of(combination)
        for phase in plan.phases
        for measured in plan.measure
    }
    assert {impl for _, impl, _, _ in found} == {"triton", "torch", "peer:fla", "peer:flex", "peer:sdpa"}
    assert {phase for _, _, phase, _ in found} == {"train", "prefill", "decode"}
    return found


def _place(row: dict[str, Any]) -> tuple[str, str, str, str]:
    return row["method"].partition(":")[0], row["impl"], row["phase"], row["measure"]


def _check_numbers(rows: list[dict[str, Any]]) -> None:
    """What can run here has a time and a share of the machine's peaks; the rest says why it has none."""
    reasons = {"peer:flex": "FlexAttention has no gradient on a CPU", "peer:fla": "pip install flash-linear-attention"}
    for row in rows:
        if row["impl"] in reasons:
            assert (row["status"], reasons[row["impl"]] in row["reason"]) == ("unsupported", True), row
        elif row["metric"] == f"{row['phase']}_ms":
            assert 0 < row["low"] <= row["value"] <= row["high"]
        else:
            assert row["status"] == "ok", row
    timed = {row["cell"] for row in rows if row["metric"] == f"{row['phase']}_ms"}
    assert timed == {row["cell"] for row in rows if row["measure"] == "speed" and row["status"] == "ok"}
    for metric in ("rms_error", "bandwidth_share", "compute_share", "tokens_per_s"):
        assert {row["cell"] for row in rows if row["metric"] == metric} == timed


def _check_import(file: Path, folder: Path, rows: list[dict[str, Any]]) -> None:
    store = Store(str(folder / "store.sqlite"))
    taken = import_rows(store, read_rows(file), "bare")
    assert taken.rows == len(rows)
    assert set(store.rows()["impl"]) == {row["impl"] for row in rows}


def _check_table(rows: list[dict[str, Any]]) -> None:
    spec = importlib.util.spec_from_file_location("readme", ROOT / "docs" / "readme.py")
    assert spec is not None
    assert spec.loader is not None
    readme = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(readme)
    first, _, *lines = readme.gpu_table(rows).splitlines()
    assert ", float32:" in first
    ours = [row for row in rows if row["impl"] == "triton" and row["metric"] == f"{row['phase']}_ms"]
    assert len(lines) == 2 + len(ours)
    assert any("B1 T40 H2 D16 | train |" in line and "flash_attention torch" in line for line in lines)


def test_what_there_was_no_time_for_is_a_row_that_says_so(tmp_path: Path) -> None:
    done = measure("--smoke", "--out", str(tmp_path / "kernels.json"), "--seconds", "0")
    assert done.returncode == 0, done.stderr[-3000:]
    found = read_rows(tmp_path / "kernels.json")
    assert found
    assert {(row["status"], row["reason"]) for row in found} == {
        ("skipped", "0 s were over before it was begun; --seconds allows more")
    }


def test_without_a_gpu_it_says_what_to_do(tmp_path: Path) -> None:
    done = measure("--out", str(tmp_path / "kernels.json"), CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert "torch finds no GPU here; --smoke tries the program" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = measure("--smoke", "--out", str(tmp_path / "file" / "kernels.json"))
    assert done.returncode == 2
    assert "cannot write" in done.stderr
    assert "choose another with --out" in done.stderr
