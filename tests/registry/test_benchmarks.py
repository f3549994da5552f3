"""pytest --pyargs longatlas.bench, run from an empty folder as somebody who has only installed longatlas would."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pace
import pytest

from longatlas.bench.replay import ReplayTimer
from longatlas.catalog import has_cuda
from longatlas.store import Store
from longatlas.store.transfer import import_rows, read_rows

QUICK = ("--longatlas-cases", "B1_T16_H2_D8", "--longatlas-budget", "0.02", "--longatlas-threads", "1")
AT_WORK = "import torch\nif config.train_length == 16:\n    "


def bench(folder: Path, *options: str, methods: str = "vanilla") -> subprocess.CompletedProcess[str]:
    return bare_bench(folder, "--longatlas-methods", methods, *QUICK, *options)


def bare_bench(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "pytest", "--pyargs", "longatlas.bench", "-p", "no:cacheprovider"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        [*command, *options],
        cwd=folder,
        env={**env, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=pace.seconds(120),
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("empty")
    store = str(folder / "kept.sqlite")
    done = bench(
        folder, "--benchmark-save=before", "--longatlas-store", store, "-rs", methods="vanilla,passage_selection"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_the_stock_table_has_a_group_per_phase(saved: tuple[Path, str]) -> None:
    for phase in ("train", "prefill", "decode"):
        assert f"benchmark '{phase} T=16 head_size=8 heads=2'" in saved[1]


def test_our_section_has_speed_memory_state_and_every_status(saved: tuple[Path, str]) -> None:
    out = saved[1]
    for title in ("prefill: ms (times as fast as vanilla)", "train: peak MiB", "state: KiB after T tokens"):
        assert title in out
    assert "puts its context around a trained decoder" in out
    assert "12 cells: 10 ok, 2 unsupported" in out
    assert "SKIPPED" in out


def test_saved_samples_are_the_workers_and_their_rows_can_be_imported(saved: tuple[Path, str], tmp_path: Path) -> None:
    (file,) = saved[0].rglob("*_before.json")
    stored = {b["fullname"]: b for b in json.loads(file.read_text())["benchmarks"]}
    assert set(stored) == {
        f"longatlas::{method}::T16::{phase}::head_size=8::heads=2"
        for method in ("vanilla", "passage_selection")
        for phase in ("train", "prefill", "decode")
        if (method, phase) != ("passage_selection", "train")
    }
    timed = stored["longatlas::vanilla::T16::prefill::head_size=8::heads=2"]
    kept = Store(str(saved[0] / "kept.sqlite"), read_only=True).rows(methods=["vanilla"], phase="prefill", samples=True)
    samples = kept[kept["metric"] == "prefill_ms"].iloc[0]["samples"]
    assert timed["stats"]["rounds"] == len(samples)
    assert timed["stats"]["median"] * 1000 == pytest.approx(sorted(samples)[len(samples) // 2], rel=0.2)
    assert timed["extra_info"]["status"] == "ok"
    assert timed["extra_info"]["state_bytes"] > 0
    other = Store(str(tmp_path / "other.sqlite"))
    done = import_rows(other, read_rows(file), file.name)
    assert (done.cells, done.known) == (10, 0)
    imported = other.rows(methods=["vanilla"], phase="prefill", samples=True)
    assert list(imported["value"]) == list(kept["value"])
    assert list(imported["samples"]) == list(kept["samples"])
    assert import_rows(other, read_rows(file), file.name).known == 10


def test_finished_cells_come_from_the_store_and_a_histogram_is_drawn(saved: tuple[Path, str]) -> None:
    before = Store(str(saved[0] / "kept.sqlite"), read_only=True).state()
    done = bench(saved[0], "--longatlas-store", str(saved[0] / "kept.sqlite"), "--benchmark-histogram=drawn/h")
    assert done.returncode == 0, done.stdout
    assert Store(str(saved[0] / "kept.sqlite"), read_only=True).state() == before
    drawn = sorted(file.name for file in (saved[0] / "drawn").glob("*.svg"))
    assert [name.split("_")[0] for name in drawn] == ["h-decode", "h-prefill", "h-train"]


def test_compare_and_compare_fail(saved: tuple[Path, str]) -> None:
    store = ("--longatlas-store", str(saved[0] / "kept.sqlite"))
    done = bench(saved[0], *store, "--benchmark-compare=0001", "--benchmark-compare-fail=median:1%")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "vanilla (0001_before)" in done.stdout
    assert "vanilla (NOW)" in done.stdout
    (file,) = saved[0].rglob("*_before.json")
    text = json.loads(file.read_text())
    for item in text["benchmarks"]:
        item["stats"] = {k: v / 10 if isinstance(v, float) else v for k, v in item["stats"].items()}
    file.with_name("0002_faster.json").write_text(json.dumps(text))
    done = bench(saved[0], *store, "--benchmark-compare=0002", "--benchmark-compare-fail=median:1%")
    assert done.returncode != 0
    assert "Performance has regressed" in done.stdout + done.stderr


def test_a_third_party_method_needs_no_code_and_a_crash_costs_its_own_line(
    planted: Callable[..., str], tmp_path: Path
) -> None:
    good, bad = planted("third_party"), planted("falls_over", AT_WORK + "ctypes.string_at(0)")
    wrong = planted(
        "wrong", "right = attend\nif impl != 'reference':\n    attend = lambda *given: right(*given) * 1.01"
    )
    done = bench(tmp_path / "empty", "--longatlas-phases", "prefill", methods=f"{good},{bad},{wrong}")
    assert done.returncode == 1
    assert "1 passed" in done.stdout
    assert "2 failed" in done.stdout
    assert "crash: the worker ended with signal SIGSEGV" in done.stdout
    assert "incorrect: " in done.stdout
    assert "6 cells: 2 crash, 2 incorrect, 2 ok" in done.stdout


def test_a_gate_against_a_baseline(saved: tuple[Path, str], tmp_path: Path) -> None:
    kept = str(saved[0] / "kept.sqlite")
    same = ("--longatlas-store", kept, "--longatlas-baseline", kept, "--longatlas-fail", "median:1%,peak_bytes:1%")
    done = bench(tmp_path / "empty", *same)
    assert done.returncode == 0, done.stdout
    assert "passed: nothing is worse than the rules allow" in done.stdout
    rows = read_rows(next(saved[0].rglob("*_before.json")))
    for row in rows:
        row["value"], row["low"], row["high"] = (x and x / 2 for x in (row["value"], row["low"], row["high"]))
    (tmp_path / "better.json").write_text(json.dumps(rows))
    worse = (*same[:2], "--longatlas-baseline", str(tmp_path / "better.json"), "--longatlas-fail", "peak_bytes:1%")
    done = bench(tmp_path / "empty", *worse)
    assert done.returncode == 1
    assert "FAILED vanilla train T=16 peak_bytes: " in done.stdout
    assert "+100.0%, worse (peak_bytes:1%)" in done.stdout


def test_what_is_deselected_is_not_measured(tmp_path: Path) -> None:
    done = bench(tmp_path / "empty", "-k", "alibi and prefill", methods="vanilla,alibi")
    assert done.returncode == 0, done.stdout
    assert "5 deselected" in done.stdout
    assert "2 cells: 2 ok" in done.stdout


def test_a_gate_that_measured_nothing_does_not_pass(saved: tuple[Path, str], tmp_path: Path) -> None:
    kept = str(saved[0] / "kept.sqlite")
    gate = ("--longatlas-store", kept, "--longatlas-baseline", kept, "--longatlas-fail", "median:1%")
    done = bench(tmp_path / "empty", *gate, "--benchmark-skip")
    assert done.returncode == 1
    assert "ERROR: nothing was measured, so there is nothing to compare with the baseline" in done.stdout
    done = bench(tmp_path / "empty", *gate, "--collect-only")
    assert (done.returncode, "ERROR" in done.stdout) == (0, False)


@pytest.mark.parametrize("option", ["--benchmark-disable", "--benchmark-only", "--import-mode=importlib"])
def test_other_ways_to_run_pytest(saved: tuple[Path, str], tmp_path: Path, option: str) -> None:
    done = bench(tmp_path / "empty", "--longatlas-store", str(saved[0] / "kept.sqlite"), option)
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout
    assert ("Name (time in" in done.stdout) == (option != "--benchmark-disable")


def test_memory_alone_has_no_time_to_compare(tmp_path: Path) -> None:
    done = bench(tmp_path / "empty", "--longatlas-measure", "memory", "--longatlas-phases", "prefill")
    assert done.returncode == 0, done.stdout
    assert "prefill: peak MiB" in done.stdout
    assert "Name (time in" not in done.stdout


def test_benchmarks_of_other_suites_are_left_out_and_counted(
    saved: tuple[Path, str], tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    text = json.loads(next(saved[0].rglob("*_before.json")).read_text())
    foreign = {"name": "test_sort", "stats": {"median": 1.0}, "extra_info": {}}
    (tmp_path / "mixed.json").write_text(json.dumps({**text, "benchmarks": [foreign, *text["benchmarks"]]}))
    (tmp_path / "foreign.json").write_text(json.dumps({**text, "benchmarks": [foreign, foreign]}))
    store = str(tmp_path / "store.sqlite")
    done = command("results", "import", str(tmp_path / "mixed.json"), "--store", store)
    assert done.returncode == 0
    assert "mixed.json: 1 benchmarks of other suites are left out" in done.stderr
    assert "of 10 cells imported" in done.stdout
    for arguments in (("results", "import"), ("compare", store)):
        done = command(*arguments, str(tmp_path / "foreign.json"))
        assert done.returncode == 2
        assert "has 2 benchmarks, none of longatlas's" in done.stderr


def test_a_plan_of_a_file_and_no_longer_text_after_a_timeout(planted: Callable[..., str], tmp_path: Path) -> None:
    limit = math.ceil(pace.seconds(3))  # enough for vanilla
    slow = planted("slow", f"import time\nif config.train_length == 8:\n    time.sleep({3 * limit})")
    plan = {"methods": ["vanilla", slow], "measure": ["speed"], "phases": ["prefill"], "lengths": [8, 16]}
    plan |= {"layers": 1, "heads": 2, "head_size": 8, "budget": 0.02, "timeout": limit, "threads": 1}
    file = tmp_path / "plan.yaml"
    file.write_text(json.dumps(plan))
    done = bare_bench(tmp_path / "empty", "--longatlas-plan", str(file))
    assert done.returncode == 0, done.stdout
    assert "4 cells: 2 ok, 1 skipped, 1 timeout" in done.stdout
    assert "T = 8 already ran out of memory or time" in done.stdout
    missing = bare_bench(tmp_path / "empty", "--longatlas-plan", str(tmp_path / "none.yaml"))
    assert missing.returncode == 4
    assert "none.yaml" in missing.stderr


def test_quality_is_a_line_of_its_own(tmp_path: Path) -> None:
    options = ("--longatlas-measure", "quality", "--longatlas-tasks", "mqar", "--longatlas-preset", "smoke")
    done = bench(tmp_path / "empty", *options)
    assert done.returncode == 0, done.stdout
    assert "benchmark 'quality mqar smoke'" in done.stdout
    assert "mqar: accuracy" in done.stdout


BAD = {
    "method": (("--longatlas-methods", "vanila"), "unknown method 'vanila'; did you mean 'vanilla'?"),
    "case": (
        ("--longatlas-cases", "B1-T16"),
        "has 'B1-T16'; expected a shape such as B1_T2048_H8_D64",
    ),
    "phase": (("--longatlas-phases", "trian"), "plan: phases has the unknown value 'trian'; did you mean 'train'?"),
    "budget": (("--longatlas-budget", "soon"), "--longatlas-budget is 'soon'; expected a number"),
    "baseline": (("--longatlas-baseline", "none.json"), "cannot read 'none.json'"),
    "plan beside options": (("--longatlas-plan", "x.yaml"), "takes the place of --longatlas-cases; put it into"),
    "device": (("--longatlas-device", "cuda"), "no NVIDIA GPU was found here"),
    "no benchmark": (("-p", "no:benchmark"), "longatlas.bench needs pytest-benchmark"),
    "fail": (("--longatlas-fail", "median:5%"), "--longatlas-fail needs --longatlas-baseline"),
}


@pytest.mark.parametrize("kind", BAD)
def test_wrong_options_are_usage_errors(tmp_path: Path, kind: str) -> None:
    if kind == "device" and has_cuda():
        pytest.skip("there is a GPU here")
    options, words = BAD[kind]
    done = bench(tmp_path / "empty", *options)
    assert done.returncode == 4, done.stdout
    assert words in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_it_does_not_run_in_parallel(tmp_path: Path) -> None:
    done = bench(tmp_path / "empty", "-n", "2")
    assert done.returncode != 0
    assert "run it without -n" in done.stdout + done.stderr


def test_the_plugin_loads_nothing_heavy() -> None:
    code = "import sys, longatlas.bench.plugin; print(sorted({'torch', 'pandas', 'sqlalchemy'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_the_timer_tells_the_samples() -> None:
    timer = ReplayTimer()
    timer.load([0.5, 0.25])
    times = [timer() for _ in range(4)]
    assert [times[1] - times[0], times[3] - times[2]] == [0.5, 0.25]
    assert timer() == 0.0
