"""The queue: a detached supervisor runs one job after the other, and jobs survive whoever asked for them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pace
import psutil
import pytest
import sqlalchemy as sa

from longatlas import LongAtlasError
from longatlas.harness import jobs
from longatlas.harness.cells import expand
from longatlas.harness.jobs import CANCELLED, DONE, FAILED, QUEUED, RUNNING
from longatlas.harness.plan import Plan
from longatlas.harness.slot_lock import device_slot
from longatlas.store import Store
from longatlas.store.schema import JOBS

CASE: dict[str, Any] = {
    "measure": ("speed",),
    "phases": ("prefill",),
    "lengths": (8,),
    "layers": 1,
    "heads": 2,
    "head_size": 8,
    "budget": 0.01,
    "threads": 1,
}
PLAN = Plan(methods=("vanilla",), **CASE)
SLEEPY = "import torch\nif config.train_length == 16:\n    time.sleep(600)"

Command = Callable[..., subprocess.CompletedProcess[str]]
Wait = Callable[..., Any]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(str(tmp_path / "store.sqlite"))
    yield made
    jobs.stop_supervisor(made, grace=2.0)


@pytest.fixture
def stuck(planted: Callable[..., str]) -> Plan:
    """A plan whose first cell is quick and whose second hangs."""
    return Plan(methods=(planted("sleepy", SLEEPY),), **{**CASE, "lengths": (8, 16)})


def ended(store: Store, number: int) -> Callable[[], jobs.Job | None]:
    def look() -> jobs.Job | None:
        found = jobs.job(store, number)
        return None if found.status in jobs.ACTIVE else found

    return look


def in_second_cell(store: Store, number: int) -> Callable[[], bool]:
    return lambda: jobs.job(store, number).current == "sleepy prefill T=16"


def family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def test_submit_is_idempotent_while_active(store: Store) -> None:
    first = jobs.submit(store, PLAN, start=False)
    assert (first.status, first.plan, first.plan_hash) == (QUEUED, PLAN, PLAN.hash)
    assert jobs.submit(store, PLAN, start=False).id == first.id
    other = jobs.submit(store, PLAN.with_values({"seed": 1}), start=False)
    assert other.id != first.id
    assert [job.id for job in jobs.jobs(store)] == [other.id, first.id]
    jobs.cancel(store, first.id)
    assert jobs.submit(store, PLAN, start=False).id > other.id


def test_cancel_a_queued_job(store: Store) -> None:
    number = jobs.submit(store, PLAN, start=False).id
    assert jobs.cancel(store, number).status == CANCELLED
    assert jobs.take_next(store) is None


def test_unknown_number(store: Store) -> None:
    for ask in (jobs.job, jobs.cancel):
        with pytest.raises(LongAtlasError, match=r"there is no job 7 in store .*; `longatlas jobs` lists them"):
            ask(store, 7)


def test_two_jobs_run_one_after_the_other_detached(store: Store, wait: Wait) -> None:
    plans = [PLAN, PLAN.with_values({"lengths": (8, 12)})]
    numbers = [jobs.submit(store, plan).id for plan in plans]
    supervisor = wait(lambda: jobs.supervisor(store), "no supervisor came")
    assert os.getpgid(supervisor.pid) != os.getpgid(0)
    first, second = (wait(ended(store, number), f"job {number} did not end") for number in numbers)
    assert (first.status, first.done, first.total) == (DONE, 1, 1)
    assert (second.status, second.done, second.total) == (DONE, 2, 2)
    assert first.finished <= second.started
    assert len(store.finished(store.rows()["cell"])) == 2
    supervisor.wait(pace.seconds(20))
    assert jobs.supervisor(store) is None
    assert jobs.log_path(store).read_text().count("vanilla prefill T=8: ok") == 1


def test_cancel_a_running_job_keeps_finished_cells(store: Store, stuck: Plan, wait: Wait) -> None:
    number = jobs.submit(store, stuck).id
    wait(in_second_cell(store, number), "the second cell did not begin")
    found = jobs.job(store, number)
    assert (found.status, found.done, found.total) == (RUNNING, 1, 2)
    assert found.eta_seconds is not None
    started = family(jobs.supervisor(store))  # type: ignore[arg-type]
    assert len(started) == 3, "the supervisor, what starts workers, and a worker"
    jobs.cancel(store, number)
    assert wait(ended(store, number), "it was not cancelled").status == CANCELLED
    assert psutil.wait_procs(started, timeout=pace.seconds(10))[1] == []
    assert list(store.rows()["T"].unique()) == [8]


def test_a_killed_supervisor_leaves_a_failed_job_that_can_go_on(store: Store, stuck: Plan, wait: Wait) -> None:
    number = jobs.submit(store, stuck).id
    wait(in_second_cell(store, number), "the second cell did not begin")
    started = family(jobs.supervisor(store))  # type: ignore[arg-type]
    os.kill(started[0].pid, signal.SIGKILL)
    assert psutil.wait_procs(started, timeout=pace.seconds(10))[1] == []
    short = stuck.with_values({"lengths": (8,)})
    again = jobs.submit(store, stuck, start=False)
    assert again.id != number
    dead = jobs.job(store, number)
    assert dead.status == FAILED
    assert dead.error == "its process was killed; run it again to go on from the finished cells"
    jobs.cancel(store, again.id)
    quick = jobs.submit(store, short).id
    assert wait(ended(store, quick), "the next job did not end").status == DONE
    assert "sleepy prefill T=8: ok" not in jobs.log_path(store).read_text().split(f"job {quick}:", 1)[1]


def test_stop_supervisor_ends_all_of_it(store: Store, stuck: Plan, wait: Wait) -> None:
    number = jobs.submit(store, stuck).id
    wait(in_second_cell(store, number), "the second cell did not begin")
    started = family(jobs.supervisor(store))  # type: ignore[arg-type]
    jobs.stop_supervisor(store, grace=pace.seconds(20))
    assert psutil.wait_procs(started, timeout=pace.seconds(10))[1] == []
    found = jobs.job(store, number)
    assert (found.status, found.error) == (CANCELLED, "its process was asked to end")


def test_a_job_that_waits_for_the_device_can_be_cancelled(store: Store, wait: Wait) -> None:
    with device_slot("cpu"):
        number = jobs.submit(store, PLAN).id
        log = jobs.log_path(store)
        wait(lambda: f"waiting: process {os.getpid()} is measuring on cpu" in log.read_text(), "it did not wait")
        jobs.cancel(store, number)
        assert wait(ended(store, number), "it was not cancelled").status == CANCELLED
    assert store.rows().empty


def test_a_job_that_cannot_run_fails_with_the_reason(store: Store, tmp_path: Path, wait: Wait) -> None:
    plan = PLAN.with_values({"measure": ("quality",), "preset": "smoke", "corpus": str(tmp_path / "none")})
    number = jobs.submit(store, plan).id
    found = wait(ended(store, number), "it did not end")
    assert found.status == FAILED
    assert "none' does not exist; give a file or a folder of text" in found.error


def gone(store: Store, plan: Plan = PLAN) -> jobs.Job:
    """A queued job whose method has been uninstalled."""
    number = jobs.submit(store, plan, start=False).id
    jobs.update(store, number, plan="methods: [uninstalled, vanilla]")
    return jobs.job(store, number)


def test_a_job_of_a_plugin_that_is_gone_does_not_stop_the_queue(store: Store) -> None:
    number = gone(store).id
    after = jobs.submit(store, PLAN.with_values({"seed": 1}), start=False)
    assert [job.id for job in jobs.jobs(store)] == [after.id, number]
    taken = jobs.take_next(store)
    assert taken is not None
    assert taken.id == after.id
    failed = jobs.job(store, number)
    assert failed.status == FAILED
    assert "unknown method 'uninstalled'" in failed.error
    jobs.update(store, after.id, status=DONE)


def test_a_job_of_a_plugin_that_is_gone_is_shown_and_can_be_cancelled(store: Store, command: Command) -> None:
    job = gone(store)
    jobs.update(store, job.id, host="elsewhere")  # so that it is not run here, and fails, while it is looked at
    assert (job.plan, job.methods, job.plan_hash) == (None, ("uninstalled", "vanilla"), PLAN.hash)
    assert "unknown method 'uninstalled'" in job.obstacle
    (fact,) = json.loads(command("jobs", "--json").stdout)
    assert (fact["plan"], fact["plan_text"], fact["obstacle"]) == (None, job.plan_text, job.obstacle)
    shown = command("jobs").stdout
    assert all(words in shown for words in ("queued", PLAN.hash, "uninstalled,vanilla", "unknown method 'uninst"))
    assert jobs.cancel(store, job.id).status == CANCELLED
    with pytest.raises(LongAtlasError, match=r"job 1 cannot be run here: .* unknown method 'uninstalled'"):
        jobs.retry(store, job.id)


def test_a_job_of_a_plugin_that_broke_names_it(store: Store, planted: Callable[..., str]) -> None:
    number = jobs.submit(store, Plan(methods=(planted("breaks"),), **CASE), start=False).id
    planted("breaks", source="raise RuntimeError('half an upgrade')")
    sys.modules.pop("breaks", None)
    assert jobs.take_next(store) is None
    error = jobs.job(store, number).error
    assert "unknown method 'breaks'" in error
    assert "plugin 'breaks' is broken: RuntimeError: half an upgrade" in error


def test_cancelling_loads_no_plugin(store: Store, planted: Callable[..., str], command: Command) -> None:
    """One of a job may hang while it is loaded, and must not take with it who cancels the job."""
    number = jobs.submit(store, PLAN, start=False).id
    path = Path(store.name).with_name("loaded")
    planted("tells", source=f"open({str(path)!r}, 'w').close()")
    assert command("jobs", "cancel", str(number)).stdout == f"job {number} is cancelled\n"
    assert not path.exists()


HANGS = """
import signal, sys, time
if sys.modules["__main__"].__spec__.name == "longatlas.harness.supervisor":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    time.sleep(600)
"""


@pytest.mark.parametrize("how", ["hangs in an import", "is halted"])
def test_a_cancelled_job_whose_process_hangs_is_ended_by_whoever_looks(
    store: Store, stuck: Plan, planted: Callable[..., str], wait: Wait, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(jobs, "TERM_SECONDS", 1.0)
    monkeypatch.setattr(jobs, "KILL_SECONDS", 3.0)
    number = jobs.submit(store, stuck, start=False).id
    waiting = jobs.submit(store, PLAN, start=False).id
    if how == "is halted":
        jobs.wake_supervisor(store)
        wait(in_second_cell(store, number), "the second cell did not begin")
        os.kill(jobs.supervisor(store).pid, signal.SIGSTOP)  # type: ignore[union-attr]
    else:
        planted("hangs", source=HANGS)
        jobs.wake_supervisor(store)
        wait(lambda: jobs.job(store, number).status == RUNNING, "it was not taken")
    started = family(jobs.supervisor(store))  # type: ignore[arg-type]
    assert jobs.cancel(store, number).status == RUNNING, "it is asked first"
    wait(lambda: jobs.pulse(store) and jobs.job(store, number).status == CANCELLED, "it was not ended")
    assert psutil.wait_procs(started, timeout=pace.seconds(20))[1] == []
    jobs.cancel(store, waiting)


def test_the_command_line(store: Store, command: Command, wait: Wait, tmp_path: Path) -> None:
    assert "No jobs. `longatlas jobs add" in command("jobs").stdout
    assert "No job has run yet." in command("jobs", "log").stdout
    (tmp_path / "plan.yaml").write_text(PLAN.to_yaml())
    added = command("jobs", "add", str(tmp_path / "plan.yaml"), "--lengths", "8,12")
    assert added.stdout.startswith("job 1 is "), added.stderr
    assert wait(ended(store, 1), "it did not end").status == DONE
    facts = json.loads(command("jobs", "--json").stdout)
    assert [(f["id"], f["status"], f["done"], f["total"], f["plan"]["lengths"]) for f in facts] == [
        (1, "done", 2, 2, [8, 12])
    ]
    shown = command("jobs").stdout
    assert "done" in shown
    assert "2/2" in shown
    log = command("jobs", "log", "--lines", "2").stdout.splitlines()
    assert log == ["job 1: vanilla prefill T=12: ok", "job 1: done"]
    jobs.submit(store, PLAN, start=False)
    assert command("jobs", "cancel", "2").stdout == "job 2 is cancelled\n"
    for arguments in (("cancel", "9"), ("cancel", "x"), ("add", "--methods", "vanila"), ("add",)):
        failed = command("jobs", *arguments)
        assert (failed.returncode, failed.stdout) == (2, "")
    assert len(jobs.jobs(store)) == 2


def test_a_read_only_store_is_left_as_it_is_and_shows_what_has_ended(store: Store) -> None:
    number = jobs.submit(store, PLAN, start=False).id
    me = psutil.Process()
    jobs.update(store, number, status=RUNNING, pid=me.pid, pid_started=me.create_time())
    closed = Store(store.name, read_only=True)
    before = jobs.pulse(closed)
    assert jobs.job(closed, number).status == RUNNING
    jobs.update(store, number, pid=2**22 + 1)
    assert jobs.pulse(closed) != before
    (seen,) = jobs.jobs(closed)
    assert (seen.status, seen.error[:22]) == (FAILED, "its process was killed")
    with store.reading() as connection:
        assert connection.execute(sa.select(JOBS.c.status)).scalar() == RUNNING
    (mended,) = jobs.jobs(store)
    assert (mended.status, mended.error) == (seen.status, seen.error)


def test_jobs_that_wait_after_their_supervisor_was_killed_go_on(store: Store, stuck: Plan, wait: Wait) -> None:
    number = jobs.submit(store, stuck).id
    wait(in_second_cell(store, number), "the second cell did not begin")
    waiting = jobs.submit(store, PLAN, start=False).id
    assert jobs.has_supervisor(store)
    started = family(jobs.supervisor(store))  # type: ignore[arg-type]
    os.kill(started[0].pid, signal.SIGKILL)
    assert psutil.wait_procs(started, timeout=pace.seconds(10))[1] == []
    assert not jobs.has_supervisor(store)
    assert jobs.job(store, waiting).status == QUEUED
    jobs.keep_going(Store(store.name, read_only=True))
    assert not jobs.has_supervisor(store)
    jobs.keep_going(store)
    assert wait(ended(store, waiting), "it did not go on").status == DONE


def test_retry_measures_again_what_failed_and_keeps_what_is_ok(store: Store, wait: Wait) -> None:
    plan = PLAN.with_values({"lengths": (8, 12)})
    good, bad = expand(plan)
    store.save(good.record([{"metric": "prefill_ms", "value": 1.0, "unit": "ms"}], 1.0))
    store.save(bad.record([{"status": "crash", "reason": "planted"}], 1.0))
    number = jobs.submit(store, plan).id
    with pytest.raises(LongAtlasError, match="when it has ended"):
        jobs.retry(store, number)
    assert wait(ended(store, number), "it did not end").status == DONE
    assert store.finished([bad.key])[bad.key] == "crash"
    again = jobs.retry(store, number)
    assert again.id != number
    assert again.retry
    assert wait(ended(store, again.id), "the second one did not end").status == DONE
    assert store.finished([good.key, bad.key]) == {good.key: "ok", bad.key: "ok"}
    assert store.rows(keys=[good.key])["value"].tolist() == [1.0]


def test_a_plan_is_queued_once_however_many_ask_at_a_time(store: Store) -> None:
    code = "import sys; from longatlas.harness import jobs; from longatlas.harness.plan import load_plan\n"
    code += "from longatlas.store import Store; store = Store(sys.argv[1]); plan = load_plan(sys.argv[2])\n"
    code += "print('ready', flush=True); input(); print(jobs.submit(store, plan, start=False).id)"
    path = Path(store.name).with_name("plan.yaml")
    path.write_text(PLAN.to_yaml())
    command = [sys.executable, "-c", code, store.name, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    asking = [subprocess.Popen(command, **pipes) for _ in range(4)]  # type: ignore[call-overload]
    assert [process.stdout.readline() for process in asking] == ["ready\n"] * 4
    for process in asking:
        process.stdin.write("\n")
        process.stdin.flush()
    numbers = {process.communicate(timeout=pace.seconds(60))[0] for process in asking}
    assert len(numbers) == len(jobs.jobs(store)) == 1


def test_a_running_job_of_a_machine_that_is_gone_can_be_cancelled_and_queued_here(store: Store) -> None:
    number = jobs.submit(store, PLAN, start=False).id
    jobs.update(store, number, host="gone", status=RUNNING, pid=1, pid_started=1.0)
    here = jobs.submit(store, PLAN, start=False)
    assert here.id != number
    assert jobs.cancel(store, number).status == CANCELLED
    jobs.end(store, number, DONE)
    assert jobs.job(store, number).status == CANCELLED, "what has ended keeps its end"


def test_the_address_of_a_store_is_no_argument_of_the_supervisor(store: Store, stuck: Plan, wait: Wait) -> None:
    number = jobs.submit(store, stuck).id
    wait(in_second_cell(store, number), "the second cell did not begin")
    for process in family(jobs.supervisor(store)):  # type: ignore[arg-type]
        assert store.name not in " ".join(process.cmdline())
    jobs.stop_supervisor(store)


def test_jobs_of_another_machine_are_left_to_it(store: Store) -> None:
    number = jobs.submit(store, PLAN, start=False).id
    jobs.update(store, number, host="elsewhere")
    assert jobs.take_next(store) is None
    jobs.update(store, number, status=RUNNING, pid=2**22 + 1, pid_started=1.0)
    assert jobs.job(store, number).status == RUNNING
    jobs.keep_going(store)
    assert not jobs.has_supervisor(store)


def test_the_pulse_beats_with_every_change_and_only_then(store: Store) -> None:
    seen = [jobs.pulse(store)]

    def changed() -> bool:
        seen.append(jobs.pulse(store))
        return seen[-1] != seen[-2]

    number = jobs.submit(store, PLAN, start=False).id
    assert changed()
    assert not changed()
    me = psutil.Process()
    jobs.update(store, number, status=RUNNING, pid=me.pid, pid_started=me.create_time(), total=2)
    assert changed()
    jobs.update(store, number, current="a cell")
    assert changed()
    store.save(expand(PLAN)[0].record([{"status": "oom", "reason": "planted"}], 1.0))
    assert changed()
    jobs.update(store, number, pid=2**22 + 1)
    assert changed()
    assert jobs.job(store, number).status == FAILED
    assert not changed()
