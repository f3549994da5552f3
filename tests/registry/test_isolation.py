"""Isolation: whatever a method does costs its own cell and nothing else, and the cell says what it was."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pace
import pandas as pd
import psutil
import pytest

from longatlas.harness import local
from longatlas.harness.plan import Plan
from longatlas.harness.progress import Progress
from longatlas.harness.running import log_path, run
from longatlas.harness.workers import output, worker
from longatlas.store import Store

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory limits of a process need Linux")

CASE: dict[str, Any] = {
    "measure": ("speed",),
    "phases": ("prefill",),
    "lengths": (8,),
    "layers": 1,
    "heads": 2,
    "head_size": 8,
    "budget": 0.01,
    "threads": 1,
    "timeout": 600,
}


def measure(plan: Plan, store: Store) -> tuple[pd.DataFrame, list[Progress]]:
    told: list[Progress] = []
    return run(plan, store=store, progress=told.append), told


def statuses(frame: pd.DataFrame) -> dict[str, str]:
    return dict(zip(frame["method"], frame["status"], strict=True))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store.sqlite"))


# When a decoder is built: the check against the reference passes with all of these, for they act in fp32 and impl
# "torch" at the measured length only.
AT_WORK = "import torch\nif config.train_length == 8:\n    "
FAILING = {
    "segfault": (AT_WORK + "ctypes.string_at(0)", "crash", "signal SIGSEGV: File"),
    "os_exit": (AT_WORK + "print('last words', flush=True); os._exit(3)", "crash", "exit code 3: last words"),
    "silent_exit": (AT_WORK + "os._exit(4)", "crash", "exit code 4"),
    "system_exit": (AT_WORK + "raise SystemExit('no more')", "crash", "SystemExit: no more"),
    "raises": (AT_WORK + "raise RuntimeError('it broke')", "crash", "RuntimeError: it broke"),
    "too_much": (AT_WORK + "torch.empty(2**40)", "oom", "can't allocate memory"),
    "python_memory": (AT_WORK + "bytearray(2**40)", "oom", "the worker's memory limit was reached"),
    "abort": (AT_WORK + "os.abort()", "crash", "signal SIGABRT"),
    "no_way": (
        AT_WORK + "import longatlas; raise longatlas.UnsupportedError('not on Mondays')",
        "unsupported",
        "Mondays",
    ),
}


def test_each_failure_costs_its_own_cell_and_says_why(planted: Callable[..., str], store: Store) -> None:
    for name, (body, _, _) in FAILING.items():
        planted(name, body)
    noisy = planted("noisy", "print('{\"rows\": []} garbage', flush=True); os.write(1, b'more\\n\\x00garbage')")
    wrong = planted(
        "wrong", "right = attend\nif impl != 'reference':\n    attend = lambda *given: right(*given) * 1.01"
    )
    plan = Plan(methods=(*FAILING, wrong, noisy, "vanilla"), **CASE)
    frame, told = measure(plan, store)
    expected = {name: status for name, (_, status, _) in FAILING.items()} | {wrong: "incorrect"}
    assert statuses(frame) == {**expected, noisy: "ok", "vanilla": "ok"}
    failed = frame[frame["status"] != "ok"].set_index("method")
    for name, (_, _, reason) in FAILING.items():
        assert reason in failed.loc[name, "reason"], name
    assert failed.loc["silent_exit", "reason"] == "the worker ended with exit code 4"
    assert "differs by an RMS ratio" in failed.loc[wrong, "reason"]
    assert failed["value"].isna().all()
    assert set(failed["metric"]) == {""}
    assert "garbage" in log_path(store).read_text(errors="replace")
    assert len([step for step in told if step.status and not step.kept]) == len(plan.methods)
    again, told = measure(plan, store)
    assert all(step.kept for step in told)
    assert statuses(again) == statuses(frame)


HANGS = {
    "hangs_in_c": AT_WORK + "ctypes.CDLL(None).pause()",
    "hangs_in_python": AT_WORK + "while True: pass",
    "hangs_deaf": AT_WORK + "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32)); time.sleep(999)",
}


def test_hanging_methods_time_out(planted: Callable[..., str], store: Store) -> None:
    for name, body in HANGS.items():
        planted(name, body)
    limit = math.ceil(pace.seconds(1))  # enough for vanilla
    plan = Plan(methods=(*HANGS, "vanilla"), **{**CASE, "lengths": (8, 16), "timeout": limit})
    frame, _ = measure(plan, store)
    for name in HANGS:
        rows = frame[frame["method"] == name].set_index("T")
        assert list(rows["status"]) == ["timeout", "skipped"]
        assert rows.loc[8, "reason"] == f"not done after {limit} s"
        assert rows.loc[16, "reason"] == "T = 8 already ran out of memory or time"
    assert set(frame[frame["method"] == "vanilla"]["status"]) == {"ok"}


def test_a_leak_is_its_own_methods_end(planted: Callable[..., str], store: Store) -> None:
    """Memory that is never freed runs into the worker's limit, and the method's next cell starts with none of it."""
    leak = "import torch\nkept = sys.modules.setdefault('leaked', [])\n"
    leaky = planted("leaky", leak + "if config.train_length in (8, 16):\n    kept.append(torch.ones(180 * 2**20 // 4))")
    plan = Plan(methods=(leaky, "vanilla"), **{**CASE, "lengths": (8, 16, 32), "memory_gib": 0.75})
    frame, _ = measure(plan.with_values({"phases": ("prefill", "decode")}), store)
    found = {(r.phase, r.T): r.status for r in frame[frame["method"] == leaky].itertuples()}
    assert set(found.values()) == {"ok", "oom", "skipped"}
    assert set(frame[frame["method"] == "vanilla"]["status"]) == {"ok"}


def test_a_method_that_forks_is_found_out(planted: Callable[..., str], store: Store) -> None:
    returns = planted("fork_returns", AT_WORK + "os.fork()")
    leaves = planted("fork_leaves", AT_WORK + "if os.fork() == 0:\n        while True: pass")
    frame, _ = measure(Plan(methods=(returns, leaves, "vanilla"), **CASE), store)
    assert statuses(frame) == {returns: "crash", leaves: "ok", "vanilla": "ok"}
    reason = frame.set_index("method")["reason"][returns]
    assert reason.startswith("the method forked, and process ")
    assert not [p for p in psutil.process_iter(["cmdline"]) if is_worker_of(p, store)], "nothing of a run is left"


def is_worker_of(process: psutil.Process, store: Store) -> bool:
    """Whether a process writes to a store's log of workers."""
    try:
        return any(file.path == str(log_path(store)) for file in process.open_files())
    except psutil.Error:
        return False


# A process in a session of its own; that of `deserted` has no parent left by the time that its worker ends.
AWAY = AT_WORK + "import subprocess; subprocess.Popen(['setsid', 'sleep', '600.25']); open({0!r}, 'a').write('a')"
DESERTED = AT_WORK + "os.system('setsid sleep 600.25 &'); open({0!r}, 'a').write('b')"


def test_what_a_method_starts_in_a_session_of_its_own_ends_with_its_worker(
    planted: Callable[..., str], store: Store, tmp_path: Path
) -> None:
    started = str(tmp_path / "started")
    methods = [planted("away", AWAY.format(started)), planted("deserted", DESERTED.format(started))]
    frame, _ = measure(Plan(methods=(*methods, "vanilla"), **CASE), store)
    assert set(frame["status"]) == {"ok"}
    assert set(Path(started).read_text()) == {"a", "b"}, "both started theirs"
    assert not [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "600.25"]]


def test_output_without_end_does_not_fill_the_disk(
    planted: Callable[..., str], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "MOST", 4 << 20)
    monkeypatch.setattr(output, "MOST", 4 << 20)
    endless = planted("endless", AT_WORK + "while True: os.write(1, b'x' * 65536)")
    talkative = planted("talkative", AT_WORK + "os.write(2, b'y' * (3 << 20))")
    frame, _ = measure(Plan(methods=(endless, talkative, "vanilla"), **CASE), store)
    assert statuses(frame) == {endless: "crash", talkative: "ok", "vanilla": "ok"}
    assert frame.set_index("method")["reason"][endless] == "it printed more than 4 MiB"
    log = log_path(store).read_bytes()
    assert len(log) < (2 * output.KEPT) + 10_000
    assert b"[more than 1 MiB was printed" in log


def test_a_file_without_end_is_an_error_of_its_method(
    planted: Callable[..., str], store: Store, tmp_path: Path
) -> None:
    body = "f = open(os.environ['HUGE'], 'wb'); f.seek(5 << 30); f.write(b'x'); f.flush()"
    os.environ["HUGE"] = str(tmp_path / "huge")
    writes = planted("writes_without_end", AT_WORK + body)
    frame, _ = measure(Plan(methods=(writes, "vanilla"), **CASE), store)
    assert statuses(frame) == {writes: "crash", "vanilla": "ok"}
    assert "File too large" in frame.set_index("method")["reason"][writes]
    del os.environ["HUGE"]


def test_a_worker_killed_by_a_person_did_not_run_out_of_memory(planted: Callable[..., str], store: Store) -> None:
    name = planted("killed", AT_WORK + "os.kill(os.getpid(), 9)")
    frame, _ = measure(Plan(methods=(name, "vanilla"), **CASE), store)
    row = frame.set_index("method").loc[name]
    assert (row["status"], row["reason"]) == (
        "crash",
        "killed with SIGKILL by another process; the machine's memory had not run out",
    )


def test_a_killed_starter_is_replaced(planted: Callable[..., str], store: Store) -> None:
    """Its workers die with it: the cell at work says so, and the others are measured by another one's workers."""
    name = planted("kills_its_parent", AT_WORK + "os.kill(os.getppid(), 9); time.sleep(60)")
    frame, _ = measure(Plan(methods=(name, "vanilla", "alibi"), **CASE), store)
    assert statuses(frame) == {name: "crash", "vanilla": "ok", "alibi": "ok"}


def test_cells_that_differ_by_the_method_are_sampled_in_turns(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []
    ask = local.Turns.ask

    def note(self: local.Turns, what: str, arguments: Any, should_stop: Any) -> bool:
        asked.append((what, self.cell.method))
        return ask(self, what, arguments, should_stop)

    monkeypatch.setattr(local.Turns, "ask", note)
    methods = ("vanilla", "alibi", "flash_attention")
    measure(Plan(methods=methods, **{**CASE, "budget": 0.4}), store)
    assert asked[:3] == [("prepare", method) for method in methods]
    sampled = [method for what, method in asked[3:]]
    assert set(sampled[:3]) == set(sampled[3:6]) == set(methods), "each has a turn in each round"
    rounds = [tuple(sampled[i : i + 3]) for i in range(0, len(sampled) - 2, 3)]
    assert len(rounds) >= 2


def test_two_runs_at_once_take_turns(store: Store, capfd: pytest.CaptureFixture[str]) -> None:
    """The second waits and says for whom; each cell is measured once."""
    plan = Plan(methods=("vanilla", "alibi"), **{**CASE, "lengths": (8, 16), "budget": 0.2})
    busy, told = threading.Event(), []
    second: list[pd.DataFrame] = []

    def first_progress(step: Progress) -> None:
        told.append(step)
        busy.set()

    other = threading.Thread(target=lambda: busy.wait() and second.append(run(plan, store=store.name)))
    other.start()
    first = run(plan, store=store, progress=first_progress)
    other.join()
    pd.testing.assert_frame_equal(first, second[0])
    assert f"waiting: process {os.getpid()} is measuring on cpu" in capfd.readouterr().err


def test_a_clock_that_jumps_changes_no_number(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real, jumps = time.time, iter(range(0, 10**9, 3600))
    monkeypatch.setattr(time, "time", lambda: real() - next(jumps))
    plan = Plan(methods=("vanilla",), **{**CASE, "lengths": (8, 16, 32)})
    frame, _ = measure(plan, store)
    assert set(frame["status"]) == {"ok"}
    again, told = measure(plan, store)
    assert all(step.kept for step in told)
    pd.testing.assert_frame_equal(frame, again)


def test_nothing_of_a_killed_engine_is_left(
    planted: Callable[..., str], store: Store, wait: Callable[..., Any]
) -> None:
    import subprocess

    name = planted("sleeper", AT_WORK + "print('asleep', flush=True); time.sleep(600)")
    command = [sys.executable, "-m", "longatlas", "run", "--methods", name, "--measure", "speed", "--phases", "prefill"]
    shape = ["--lengths", "8", "--layers", "1", "--heads", "2", "--head-size", "8", "--store", store.name]
    engine = subprocess.Popen([*command, *shape], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait(lambda: log_path(store).exists() and "asleep" in log_path(store).read_text(), "the method is at work")
    children = psutil.Process(engine.pid).children(recursive=True)
    assert len(children) >= 2, "what starts workers, and a worker"
    engine.send_signal(signal.SIGKILL)
    engine.wait()
    wait(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in children), "all are gone")
