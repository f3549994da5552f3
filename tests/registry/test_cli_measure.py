"""The commands run, results and demo: what they print, and how they end."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pace
import psutil
import pytest

from longatlas.store import Store

QUICK = [
    *("--measure", "speed,memory", "--phases", "prefill", "--lengths", "8", "--layers", "1", "--heads", "2"),
    *("--head-size", "8", "--budget", "0.01", "--threads", "1"),
]
SHARES = ("moved_bytes", "flops", "bandwidth_share", "compute_share")
TIMES = ("prefill_ms", "tokens_per_s", "compile_ms", "rms_error", *SHARES)
BYTES = ("peak_bytes", "weight_bytes", "input_bytes", "workspace_bytes", "state_bytes", "resident_peak_bytes")
CONTRACT = {
    *("method", "options", "impl", "measure", "phase", "T", "metric", "value", "unit", "low", "high"),
    *("status", "reason", "device", "dtype"),
}
Command = Callable[..., subprocess.CompletedProcess[str]]


def test_run_then_results(command: Command) -> None:
    run = command("run", "--methods", "vanilla,sliding_window:window=4", *QUICK, "--json")
    assert run.returncode == 0, run.stderr
    rows = json.loads(run.stdout)
    assert all(row.keys() >= CONTRACT for row in rows)
    assert {(r["method"], r["metric"], r["T"], r["status"]) for r in rows} == {
        (method, metric, 8, "ok") for method in ("vanilla", "sliding_window:window=4") for metric in (*TIMES, *BYTES)
    }
    timed = next(row for row in rows if row["metric"] == "prefill_ms")
    assert timed["low"] <= timed["value"] <= timed["high"]
    assert next(r["options"] for r in rows if r["method"] != "vanilla") == {"window": 4}
    assert "[4/4] memory sliding_window:window=4 prefill T=8: ok" in run.stderr
    results = command("results", "--json")
    assert json.loads(results.stdout) == sorted(rows, key=lambda row: row["id"])
    assert results.stderr == ""
    again = command("run", "--methods", "vanilla,sliding_window:window=4", *QUICK, "--json")
    assert json.loads(again.stdout) == rows
    assert "4 cells were in the store already." in again.stderr
    assert "ok" not in again.stderr
    filtered = command("results", "--json", "--method", "sliding_window", "--measure", "memory")
    assert {r["metric"] for r in json.loads(filtered.stdout)} == set(BYTES)
    shown = command("results").stdout
    assert "prefill: ms (times as fast as vanilla)" in shown
    assert "state: KiB after T tokens" in shown


def test_failed_cells_are_in_the_rows_and_in_the_table(command: Command) -> None:
    options = ["--methods", "passage_selection", *QUICK, "--phases", "train", "--measure", "speed"]
    run = command("run", *options, "--json")
    assert run.returncode == 0
    (row,) = json.loads(run.stdout)
    assert (row["status"], row["value"], row["metric"]) == ("unsupported", None, "")
    assert "not trained itself" in row["reason"]
    shown = command("results").stdout
    assert "not measured" in shown
    assert "unsupported" in shown


BAD_RUNS = {
    "nothing": ([], "there is nothing to run; give a PLAN.yaml or --methods a,b"),
    "method": (["--methods", "vanila"], "unknown method 'vanila'; did you mean 'vanilla'?"),
    "option": (["--methods", "sliding_window:windw=3"], "did you mean 'window'?"),
    "bounds": (["--methods", "sliding_window:window=0"], "option 'window' is 0; expected a whole number of at least 1"),
    "clash": (["--methods", "yarn+alibi"], "both fill the slot 'position'"),
    "length": (["--methods", "vanilla", "--lengths", "-8"], "lengths has -8; expected a whole number of at least 1"),
    "no length": (["--methods", "vanilla", "--lengths", ","], "lengths is empty"),
    "text": (["--methods", "vanilla", "--lengths", "8k"], "--lengths has '8k'; expected a whole number"),
    "number": (["--methods", "vanilla", "--seed", "many"], "--seed is 'many'; expected a whole number"),
    "phase": (["--methods", "vanilla", "--phases", "trian"], "did you mean 'train'?"),
    "device": (["--methods", "vanilla", "--device", "gpu"], "device is the unknown value 'gpu'"),
    "flag": (["--methods", "vanilla", "--lenghts", "8"], "No such option"),
    "file": (["none.yaml"], "cannot read none.yaml: No such file or directory"),
    "key": (["bad.yaml"], "bad.yaml, line 2: unknown key 'lenghts'; did you mean 'lengths'?"),
    "line": (["negative.yaml"], "negative.yaml, line 4: lengths has -1"),
    "corpus": (["--methods", "vanilla", "--measure", "quality", "--corpus", "none.txt"], "none.txt' does not exist"),
    "store": (["--methods", "vanilla", "--store", "bad.yaml"], "bad.yaml' is no SQLite file"),
    "size": (["--methods", "vanilla", "--batch", "0"], "batch is 0; expected a whole number of at least 1"),
}


@pytest.mark.parametrize("kind", BAD_RUNS)
def test_bad_input_ends_with_2_and_changes_nothing(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from longatlas.cli import main

    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text("methods: [vanilla]\nlenghts: [8]\n")
    Path("negative.yaml").write_text("methods: [vanilla]\nlengths:\n- 8\n- -1\n")
    arguments, told = BAD_RUNS[kind]
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(SystemExit) as ended:
        main(["run", *arguments])
    out, err = capsys.readouterr()
    assert ended.value.code == 2
    assert out == ""
    assert told in err.replace("\n", " ")
    assert "Traceback" not in err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_results_of_no_store(command: Command, tmp_path: Path) -> None:
    failed = command("results", "--store", str(tmp_path / "none.sqlite"))
    assert failed.returncode == 2
    assert "does not exist; make one with `longatlas run` or `longatlas demo`" in failed.stderr
    assert not (tmp_path / "none.sqlite").exists()
    Store(str(tmp_path / "empty.sqlite"))
    assert (
        "No results for these filters"
        in command("results", "--store", str(tmp_path / "empty.sqlite"), "--phase", "x").stdout
    )
    assert command("results", "--store", str(tmp_path / "empty.sqlite"), "--measure", "sped").returncode == 2
    assert "No results yet." in command("results", "--store", str(tmp_path / "empty.sqlite")).stdout
    assert json.loads(command("results", "--store", str(tmp_path / "empty.sqlite"), "--json").stdout) == []


SLEEPY = "import torch\nif config.train_length == 16:\n    time.sleep(600)"


@pytest.fixture
def in_second_cell(planted: Callable[..., str], wait: Callable[..., Any]) -> Iterator[subprocess.Popen[str]]:
    """A run whose first cell is finished and whose second hangs."""
    planted("sleepy", SLEEPY)
    options = [*QUICK, "--measure", "speed", "--lengths", "8,16"]
    process = subprocess.Popen(
        [sys.executable, "-m", "longatlas", "run", "--methods", "sleepy", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background makes all of them deaf to Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    path = Path(os.environ["LONGATLAS_STORE"])
    wait(lambda: path.exists() and _finished(path), "the first cell was not finished")
    yield process
    process.kill()
    process.communicate()


def _finished(path: Path) -> bool:
    try:
        with sqlite3.connect(path) as connection:
            return bool(connection.execute("select count(*) from cells").fetchone()[0])
    except sqlite3.OperationalError:
        return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_goes_on_from_there(
    in_second_cell: subprocess.Popen[str], number: signal.Signals, command: Command
) -> None:
    workers = psutil.Process(in_second_cell.pid).children(recursive=True)
    assert len(workers) == 2, "what starts workers, and a worker"
    in_second_cell.send_signal(number)
    out, err = in_second_cell.communicate(timeout=pace.seconds(20))
    assert psutil.wait_procs(workers, timeout=pace.seconds(10))[1] == []
    assert out == ""
    assert "Traceback" not in err
    if number == signal.SIGINT:
        assert in_second_cell.returncode == 130
        assert "Interrupted; finished cells are kept, the same command goes on from there." in err
    else:
        assert in_second_cell.returncode == -number
    assert list(Store().rows()["T"].unique()) == [8]
    options = [*QUICK, "--measure", "speed", "--lengths", "8,16", "--timeout", "1"]
    go_on = command("run", "--methods", "sleepy", *options)
    assert "1 cell was in the store already." in go_on.stderr
    assert "[2/2] speed sleepy prefill T=16: timeout" in go_on.stderr


def test_a_second_run_waits_for_the_first(in_second_cell: subprocess.Popen[str], wait: Callable[..., Any]) -> None:
    second = subprocess.Popen(
        [sys.executable, "-m", "longatlas", "run", "--methods", "vanilla", *QUICK],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert second.stderr is not None
    assert second.stderr.readline() == f"waiting: process {in_second_cell.pid} is measuring on cpu\n"
    assert second.poll() is None
    in_second_cell.send_signal(signal.SIGINT)
    assert second.wait(pace.seconds(60)) == 0, second.stderr.read()


def test_help_names_every_option_and_shows_examples(command: Command) -> None:
    text = command("run", "--help").stdout
    for word in (
        "PLAN",
        "--methods",
        "--head-size",
        "--memory-gib",
        "--store",
        "--force",
        "--json",
        "Examples",
        "[default: 512,1024,2048,4096]",
    ):
        assert word in " ".join(text.split())


def test_the_preset_paper_asks_first(command: Command) -> None:
    plan = ("--methods", "vanilla", "--measure", "quality", "--tasks", "mqar", "--preset", "paper", "--threads", "1")
    asked = command("run", *plan, stdin=subprocess.DEVNULL)
    assert (asked.returncode, asked.stdout) == (2, "")
    assert re.search(r"would take about [\d.e+]+ (minutes|hours|days) here", asked.stderr), asked.stderr
    assert "there is no terminal to ask at; add --yes" in asked.stderr
