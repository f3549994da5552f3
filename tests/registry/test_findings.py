"""Findings, and what `verify`, `influence` and `footprint` ask for: a method costs its own reply alone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from longatlas.combination import parse_spec
from longatlas.errors import LongAtlasError
from longatlas.harness import findings
from longatlas.harness.executor import Reply, Request
from longatlas.harness.local import LocalExecutor
from longatlas.harness.slot_lock import device_slot
from longatlas.harness.workers import output, starter, worker
from longatlas.store import Store

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory limits and orphans need Linux")

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

# What a method does -> what the reply says of it.
FAULTS = {
    "segfaults": ("ctypes.string_at(0)", "crash", "the worker ended with signal SIGSEGV"),
    "exits": ("print('last words', flush=True); os._exit(3)", "crash", "exit code 3: last words"),
    "forks": ("if os.fork(): os.wait()", "crash", "the method forked, and process "),
    "prints_on": ("while True: os.write(1, b'x' * 65536)", "crash", "it printed more than 4 MiB"),
    "leaks": ("import torch\nkept = []\nwhile True: kept.append(torch.empty(1 << 24))", "oom", "can't allocate memory"),
}
STAYS = "if os.fork() == 0:\n    while True: time.sleep(1)"


@pytest.fixture
def executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalExecutor]:
    """One that lets a request print 4 MiB and take 1 GiB; nothing of it may be left."""
    monkeypatch.setattr(worker, "MOST", 4 << 20)
    monkeypatch.setattr(output, "MOST", 4 << 20)
    before = psutil.Process().children(recursive=True)
    with LocalExecutor(tmp_path / "log", memory_gib=2.0) as made:
        yield made
    assert set(psutil.Process().children(recursive=True)) <= set(before)


def test_each_fault_costs_its_own_reply(executor: LocalExecutor, planted: Callable[..., str]) -> None:
    for name, (body, _, _) in FAULTS.items():
        planted(name, body)
    planted("stays", STAYS)
    told: list[str] = []

    def hear(request: Request, value: Any) -> None:
        told.extend([value["check"]] * (request.arguments["spec"] == "vanilla"))

    asked = [("verify", name) for name in (*FAULTS, "vanilla")]
    asked += [("influence", name) for name in (*FAULTS, "stays", "vanilla")]
    requests = [Request(kind, {"spec": spec}) for kind, spec in asked]
    replies = {
        (reply.request.name, reply.request.arguments["spec"]): reply
        for reply in executor.ask(requests, 200, together=True, told=hear)
    }
    assert len(replies) == len(requests)
    for name, (_, status, reason) in FAULTS.items():
        drawn = replies["influence", name]
        assert (drawn.status, drawn.value) == (status, None)
        assert reason in drawn.reason
        with pytest.raises(LongAtlasError, match=f"method '{name}' cannot be differentiated: "):
            findings.value_of(drawn)
        checked = findings.value_of(replies["verify", name])
        assert (checked["method"], checked["ok"]) == (name, False)
        first = checked["checks"][0]
        if name == "leaks":
            assert reason in first["detail"]
        else:
            assert first["check"] == "survives"
            assert first["detail"].startswith("it ended the process: ")
            assert reason in first["detail"]
    for well in (("verify", "vanilla"), ("influence", "vanilla"), ("influence", "stays")):
        assert replies[well].status == "ok"
    assert [check["check"] for check in findings.value_of(replies["verify", "vanilla"])["checks"]] == told


def test_a_fault_while_the_footprint_is_measured_costs_its_reply(
    executor: LocalExecutor, planted: Callable[..., str], tmp_path: Path
) -> None:
    """The footprint asks built-in methods only; a plugin that fails when it is loaded stands for them."""
    body = tmp_path / "body"
    lines = ["import ctypes, inspect, os", "if any(frame.function == '_footprint' for frame in inspect.stack()):"]
    source = "\n".join([*lines, f"    exec(open({str(body)!r}).read())", "from longatlas import hookimpl", ""])
    planted("fails_when_loaded", source=source + "@hookimpl\ndef register_methods(register): pass\n")

    def ask() -> Reply:
        (reply,) = executor.ask([Request("footprint", {"layers": 1, "segment": 8, "memory": 8})], 200)
        return reply

    for name, (code, status, reason) in FAULTS.items():
        if name == "leaks":
            continue  # a plugin that raises while it is loaded is a line of `longatlas plugins`
        body.write_text(code)
        reply = ask()
        assert (reply.status, reply.value) == (status, None)
        assert reason in reply.reason
        with pytest.raises(LongAtlasError, match="the footprint cannot be measured: "):
            findings.value_of(reply)
    body.write_text("")
    assert findings.value_of(ask())[0]["name"] == "Transformer-XL"


@pytest.fixture
def started(planted: Callable[..., str], tmp_path: Path) -> Path:
    """A file with the number of the process that the method `hangs` starts."""
    path = tmp_path / "started"
    planted("hangs", HANGS.format(path))
    return path


def is_gone(started: Path) -> bool:
    number = int(started.read_text())
    return not psutil.pid_exists(number) or psutil.Process(number).status() == psutil.STATUS_ZOMBIE


def test_verify_ends_a_method_that_hangs(started: Path, command: Callable[..., Any]) -> None:
    done = command("verify", "hangs", "--timeout", "4", "--json")
    (report,) = json.loads(done.stdout)
    assert (report["method"], report["ok"], done.returncode) == ("hangs", False, 1)
    assert [check["check"] for check in report["checks"]] == ["survives"]
    assert report["checks"][0]["detail"].startswith("not done after 4 s, and was ended; `--timeout`")
    assert is_gone(started)


def test_a_hang_later_keeps_what_was_checked_before(
    executor: LocalExecutor, planted: Callable[..., str], tmp_path: Path
) -> None:
    passed = tmp_path / "passed"
    planted("hangs_later", f"if os.path.exists({str(passed)!r}): time.sleep(600)")
    asked = [Request("verify", {"spec": "hangs_later"})]
    (reply,) = executor.ask(asked, 10, told=lambda request, value: passed.touch())
    report = findings.value_of(reply)
    assert [check["check"] for check in report["checks"]] == ["survives", "builds"]
    assert [check["status"] for check in report["checks"]] == ["failed", "passed"]


@pytest.mark.parametrize("moment", ["while it starts", "while it works"])
def test_nothing_of_a_finding_outlives_who_asked_for_it(
    moment: str, started: Path, tmp_path: Path, wait: Callable[..., Any]
) -> None:
    store = Store(str(tmp_path / "store.sqlite"))
    asking = subprocess.Popen([sys.executable, "-c", ASK, store.name])
    mine = psutil.Process(asking.pid)
    if moment == "while it starts":
        wait(mine.children, "a process of its own did not begin")
    else:
        wait(lambda: started.exists() and started.read_text().strip(), "the method did not begin")
    family = mine.children(recursive=True)
    assert len(family) >= (1 if moment == "while it starts" else 3), "what starts workers, a worker, what it started"
    asking.send_signal(signal.SIGKILL)
    asking.wait()
    wait(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family), "all are gone")
    assert not started.exists() or is_gone(started)


def test_a_finding_waits_for_a_measurement_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "WAIT_SECONDS", 0.1)
    store = Store(str(tmp_path / "store.sqlite"))
    with device_slot("cpu"), pytest.raises(LongAtlasError, match="a measurement has this machine to itself"):
        findings.find(store, "influence", parse_spec("vanilla"))
    assert findings.kept(store, "influence", parse_spec("vanilla")) is None


def test_a_worker_is_a_program_of_its_own_where_none_may_be_forked(
    executor: LocalExecutor, planted: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on systems other than Linux."""
    monkeypatch.setattr(starter, "FORKS", False)
    planted("exits", FAULTS["exits"][0])
    requests = [Request("influence", {"spec": spec, "tokens": 4}) for spec in ("exits", "vanilla")]
    statuses = {reply.request.arguments["spec"]: reply.status for reply in executor.ask(requests, 200, together=True)}
    assert statuses == {"exits": "crash", "vanilla": "ok"}
