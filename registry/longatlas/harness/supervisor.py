"""The supervisor: takes one job after the other from a store's queue and runs it; ends when the queue is empty."""

from __future__ import annotations

import fcntl
import signal
import sys
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import TextIO

from longatlas.harness import jobs
from longatlas.harness.progress import Progress
from longatlas.harness.running import run
from longatlas.harness.slot_lock import StoppedError
from longatlas.store import Store


def main() -> None:
    """Run the queue of the store that LONGATLAS_STORE names; returns at once when another supervisor does."""
    store = Store()
    with jobs.lock_path(store).open("w") as lock:
        if not _locked(lock):
            return
        signal.signal(signal.SIGTERM, _end)
        while (job := jobs.take_next(store)) is not None:
            _run_job(store, job)


def _end(number: int, frame: FrameType | None) -> None:
    """End with what has to be put in order; a second signal does not break into that."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(0)


def _locked(lock: TextIO, tries: int = 10) -> bool:
    """Whether this process has the lock now; it may be held for a moment by one that ends, or that only looks."""
    for _ in range(tries):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.1)
        else:
            return True
    return False


def _run_job(store: Store, job: jobs.Job) -> None:
    print(f"job {job.id}: {job.plan_hash}", flush=True)

    def report(step: Progress) -> None:
        what = "" if step.status else step.cell.label
        ends = None if step.left is None else time.time() + step.left
        jobs.update(store, job.id, done=step.done, total=step.total, current=what, ends=ends)
        if step.status and not step.kept:
            print(f"job {job.id}: {step.cell.label}: {step.status} {step.reason}".rstrip(), flush=True)

    status, error, asked_to_end = jobs.DONE, "", False
    try:
        run(job.runnable(), store=store, retry_failed=job.retry, progress=report, should_stop=_asker(store, job.id))
    except StoppedError:
        status = jobs.CANCELLED
    except SystemExit:
        asked_to_end = True
        text = "" if jobs.cancel_requested(store, job.id) else "its process was asked to end"
        status, error = jobs.CANCELLED, text
    except Exception as problem:
        traceback.print_exc()
        status, error = jobs.FAILED, jobs.explained(problem)
    jobs.end(store, job.id, status, error)
    print(f"job {job.id}: {status}", flush=True)
    if asked_to_end:
        sys.exit(0)


def _asker(store: Store, number: int) -> Callable[[], bool]:
    """Whether a job was cancelled, asked of the store at most once a second."""
    asked = 0.0
    answer = False

    def should_stop() -> bool:
        nonlocal asked, answer
        if time.monotonic() - asked > 1.0:
            asked, answer = time.monotonic(), jobs.cancel_requested(store, number)
        return answer

    return should_stop


if __name__ == "__main__":
    main()
