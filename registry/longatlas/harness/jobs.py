"""The queue of jobs: plans that a detached supervisor runs one at a time, whoever asked for them.

Several machines may share a store: each runs the jobs that were queued on it, and judges only its own processes.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa
import yaml

from longatlas.catalog import load_catalog
from longatlas.errors import LongAtlasError
from longatlas.harness.plan import Plan, plan_from_yaml
from longatlas.store import Store
from longatlas.store.schema import JOBS

QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
ACTIVE = (QUEUED, RUNNING)
# Seconds after a job was cancelled: until then it may stop by itself, then its process is asked to, then it is killed.
TERM_SECONDS, KILL_SECONDS = 10.0, 15.0


@dataclass(frozen=True)
class Job:
    """One job. `done` of `total` cells are finished; `current` is what is being measured.

    plan_text  the plan as it was queued, YAML
    retry      cells that ended with another status than ok are measured again
    """

    id: int
    plan_text: str
    plan_hash: str
    status: str
    done: int
    total: int
    current: str
    error: str
    retry: bool
    created: float
    started: float | None
    ends: float | None
    finished: float | None

    def as_dict(self) -> dict[str, Any]:
        """All fields, the plan as its keys and values: None where it cannot be run here, with the obstacle."""
        plan = self.plan.as_dict() if self.plan else None
        return {**asdict(self), "plan": plan, "obstacle": self.obstacle}

    @property
    def plan(self) -> Plan | None:
        """The plan; None where it cannot be run here now, such as that of a plugin that is gone."""
        return self._read[0]

    @property
    def obstacle(self) -> str:
        """Why the plan cannot be run here now: what it names and lacks; "" where it can."""
        return self._read[1]

    @cached_property
    def _read(self) -> tuple[Plan | None, str]:
        """Read only when it is asked for: it loads the plugins, and one of these may hang."""
        try:
            return plan_from_yaml(self.plan_text, f"job {self.id}"), ""
        except Exception as error:  # a plugin may raise anything when an option of its card is checked
            return None, explained(error)

    @property
    def methods(self) -> tuple[str, ...]:
        """The specs that the plan names, whether they are installed or not."""
        try:
            found = yaml.safe_load(self.plan_text)["methods"]
            return tuple(map(str, found))
        except (yaml.YAMLError, KeyError, TypeError):
            return ()

    def runnable(self) -> Plan:
        """The plan. Raises LongAtlasError that says which method or plugin is missing."""
        if self.plan is None:
            raise LongAtlasError(f"job {self.id} cannot be run here: {self.obstacle}")
        return self.plan

    @property
    def eta_seconds(self) -> float | None:
        """Seconds left at the pace of the cells measured so far; None before the first of them is finished."""
        if self.status != RUNNING or self.ends is None:
            return None
        return max(0.0, self.ends - time.time())


def submit(store: Store, plan: Plan, *, retry: bool = False, start: bool = True) -> Job:
    """Put a plan in the queue and wake the supervisor. One that this machine has queued or running is not doubled.

    retry  measure again the cells that ended with another status than ok

    Raises LongAtlasError when the store cannot be written.
    """
    store.check_writable()
    _mend(store)
    with store.writing(alone=True) as connection:
        query = sa.select(JOBS.c.id).where(JOBS.c.plan_hash == plan.hash, JOBS.c.status.in_(ACTIVE))
        found = connection.execute(query.where(_of_this_machine())).scalar()
        if found is not None and retry:
            connection.execute(sa.update(JOBS).where(JOBS.c.id == found, JOBS.c.status == QUEUED).values(retry=1))
        if found is None:
            values = {
                "plan": plan.to_yaml(),
                "plan_hash": plan.hash,
                "status": QUEUED,
                "retry": int(retry),
                "host": socket.gethostname(),
                "created": time.time(),
            }
            found = connection.execute(sa.insert(JOBS).values(**values).returning(JOBS.c.id)).scalar_one()
    if start:
        wake_supervisor(store)
    return job(store, int(found))


def job(store: Store, number: int) -> Job:
    """One job. Raises LongAtlasError for a number that is not in the store."""
    ends = _mend(store)
    with store.reading() as connection:
        row = connection.execute(sa.select(JOBS).where(JOBS.c.id == number)).mappings().first()
    if row is None:
        raise LongAtlasError(f"there is no job {number} in store '{store.name}'; `longatlas jobs` lists them")
    return _job(row, ends)


def jobs(store: Store, *, limit: int = 50) -> list[Job]:
    """The newest jobs first, those of plugins that are no longer installed too."""
    ends = _mend(store)
    with store.reading() as connection:
        rows = connection.execute(sa.select(JOBS).order_by(JOBS.c.id.desc()).limit(limit)).mappings().all()
    return [_job(row, ends) for row in rows]


def pulse(store: Store) -> tuple[Any, ...]:
    """Changes when there is something new to show of any job; cheap enough to be asked for every two seconds."""
    ends = _mend(store)
    columns = (JOBS.c.id, JOBS.c.status, JOBS.c.done, JOBS.c.total, JOBS.c.current)
    with store.reading() as connection:
        active = connection.execute(sa.select(*columns).where(JOBS.c.status.in_(ACTIVE)).order_by(JOBS.c.id)).all()
        ended = connection.execute(sa.select(sa.func.max(JOBS.c.id), sa.func.max(JOBS.c.finished))).one()
    return (store.state(), tuple(ended), tuple(ends), *map(tuple, active))


def cancel(store: Store, number: int) -> Job:
    """Ask a job to stop, from any process: a queued one at once, a running one within seconds.

    One whose process hangs is ended by whoever looks at the queue 10 and 15 seconds later: nobody has to wait for it.

    One that runs on another machine counts as cancelled at once, for that machine may be gone; if it is not, it stops.
    """
    with store.writing() as connection:
        this = JOBS.c.id == number
        connection.execute(sa.update(JOBS).where(this, JOBS.c.cancel == 0).values(cancel=int(time.time())))
        at_once = (JOBS.c.status == QUEUED) | ((JOBS.c.status == RUNNING) & ~_of_this_machine())
        connection.execute(sa.update(JOBS).where(this, at_once).values(status=CANCELLED, finished=time.time()))
    return job(store, number)


def retry(store: Store, number: int, *, start: bool = True) -> Job:
    """Queue the plan of an ended job once more, and measure its failed cells again; those that are ok are kept.

    Raises LongAtlasError for a job that is queued or running, and for one whose methods are not all here.
    """
    old = job(store, number)
    if old.status in ACTIVE:
        raise LongAtlasError(f"job {number} is {old.status}; its failed cells can be tried again when it has ended")
    return submit(store, old.runnable(), retry=True, start=start)


def keep_going(store: Store) -> None:
    """Wake the supervisor where jobs of this machine wait and none runs them: the last one was killed."""
    if store.read_only or has_supervisor(store):
        return
    with store.reading() as connection:
        waiting = connection.execute(sa.select(JOBS.c.id).where(*_queued_here()).limit(1)).scalar()
    if waiting is not None:
        wake_supervisor(store)


def lock_path(store: Store) -> Path:
    """The file that the supervisor of a store holds a lock on."""
    return store.beside(".jobs.lock")


def has_supervisor(store: Store) -> bool:
    """Whether a supervisor holds the lock of this store on this machine."""
    try:
        with lock_path(store).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def log_path(store: Store) -> Path:
    """Where the supervisor and its workers write what they print."""
    return store.beside(".jobs.log")


def supervisor(store: Store) -> psutil.Process | None:
    """The process that runs the jobs of a store, if it lives."""
    with store.reading() as connection:
        query = sa.select(JOBS.c.pid, JOBS.c.pid_started).where(JOBS.c.pid.is_not(None), _of_this_machine())
        found = connection.execute(query.order_by(JOBS.c.started.desc()).limit(1)).first()
    if found is None:
        return None
    return _alive(int(found.pid), float(found.pid_started))


def wake_supervisor(store: Store) -> None:
    """Start the supervisor, detached; a second one finds the slot taken and ends at once."""
    log = log_path(store)
    with log.open("ab") as stream:
        subprocess.Popen(
            [sys.executable, "-m", "longatlas.harness.supervisor"],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            # Not an argument: every user of the machine may read those, and a URL may hold a password.
            env={
                **os.environ,
                "PYTHONUNBUFFERED": "1",
                "LONGATLAS_STORE": store.url.render_as_string(hide_password=False),
            },
        )


def stop_supervisor(store: Store, *, grace: float = 20.0) -> None:
    """End the supervisor and its workers: SIGTERM to the group, then SIGKILL after `grace` seconds."""
    process = supervisor(store)
    if process is None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(grace)
        except (ProcessLookupError, psutil.NoSuchProcess):
            return
        except psutil.TimeoutExpired:
            continue


def take_next(store: Store) -> Job | None:
    """Mark the oldest queued job as running in this process and return it; one that cannot be read fails."""
    with store.writing() as connection:
        oldest = sa.select(JOBS.c.id).where(*_queued_here()).order_by(JOBS.c.id).limit(1)
        number = connection.execute(oldest.with_for_update(skip_locked=True)).scalar()
        if number is None:
            return None
        me = psutil.Process()
        values = {"status": RUNNING, "started": time.time(), "pid": me.pid, "pid_started": me.create_time()}
        connection.execute(sa.update(JOBS).where(JOBS.c.id == number).values(**values))
    found = job(store, int(number))
    if found.plan is not None:
        return found
    end(store, found.id, FAILED, found.obstacle)
    return take_next(store)


def update(store: Store, number: int, **values: Any) -> None:
    """Write how far a job is."""
    with store.writing() as connection:
        connection.execute(sa.update(JOBS).where(JOBS.c.id == number).values(**values))


def end(store: Store, number: int, status: str, error: str = "") -> None:
    """Write how a running job ended; one that has ended already keeps its end."""
    running = sa.update(JOBS).where(JOBS.c.id == number, JOBS.c.status == RUNNING)
    with store.writing() as connection:
        connection.execute(running.values(status=status, error=error, current="", finished=time.time()))


def cancel_requested(store: Store, number: int) -> bool:
    with store.reading() as connection:
        return bool(connection.execute(sa.select(JOBS.c.cancel).where(JOBS.c.id == number)).scalar())


def explained(error: Exception) -> str:
    """An error's text; where it names something unknown, the broken plugins too: one of them may have brought it."""
    text = str(error) or type(error).__name__
    if not re.search(r"unknown (method|task)", text):
        return text
    faults = load_catalog().faults
    named = [fault for fault in faults if fault.plugin in text] or faults
    return "; ".join([text, *map(str, named[:3])])


def _mend(store: Store) -> dict[int, dict[str, str]]:
    """A job whose process was killed says so instead of running for ever, and one that was cancelled is made to stop.

    Returns the ends that were found and not written, by number: all of a store that is read-only.
    """
    with store.reading() as connection:
        query = sa.select(JOBS.c.id, JOBS.c.pid, JOBS.c.pid_started, JOBS.c.cancel)
        running = connection.execute(query.where(JOBS.c.status == RUNNING, _of_this_machine())).all()
    ends: dict[int, dict[str, str]] = {}
    for number, pid, started, cancelled in running:
        process = _alive(int(pid), float(started))
        if process is None:
            text = "" if cancelled else "its process was killed; run it again to go on from the finished cells"
            ends[int(number)] = {"status": CANCELLED if cancelled else FAILED, "error": text}
        elif cancelled and not store.read_only:
            _insist(process, time.time() - cancelled)
    if store.read_only:
        return ends
    for number, found in ends.items():
        end(store, number, **found)
    return {}


def _insist(process: psutil.Process, waited: float) -> None:
    """Make the process of a job stop that was cancelled `waited` seconds ago: it may hang, or have been halted."""
    if waited < TERM_SECONDS:
        return
    number = signal.SIGTERM if waited < KILL_SECONDS else signal.SIGKILL
    with suppress(ProcessLookupError, PermissionError):
        if os.getpgid(process.pid) == process.pid != os.getpgid(0):
            os.killpg(process.pid, number)
        else:
            os.kill(process.pid, number)


def _queued_here() -> tuple[sa.ColumnElement[bool], ...]:
    return JOBS.c.status == QUEUED, _of_this_machine()


def _of_this_machine() -> sa.ColumnElement[bool]:
    """Jobs of this machine, and those of a store that was written before jobs named theirs."""
    return JOBS.c.host.in_(("", socket.gethostname()))


def _alive(pid: int, started: float) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - started) < 1.0
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def _job(row: Any, ends: Mapping[int, Mapping[str, str]]) -> Job:
    """A job from its row, and from how it ended where that could not be written."""
    columns = {"plan_text": "plan"}
    values = {field.name: row[columns.get(field.name, field.name)] for field in fields(Job)}
    return Job(**{**values, "retry": bool(row["retry"]), **ends.get(row["id"], {})})
