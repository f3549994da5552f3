"""What a process sets up for itself, and how nothing that it has started outlives it."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Collection
from contextlib import suppress

import psutil

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
END_SECONDS = 5.0  # after SIGKILL; a process that waits for a disk or a device takes its time
LARGEST_FILE = 4 << 30  # bytes; a method that writes without end gets an error instead of the disk


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """Ask Linux for a signal when the parent dies, even by kill -9; it outlasts an exec. Elsewhere: nothing."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it died before it was asked for
            os.kill(os.getpid(), number)


def adopt_orphans() -> None:
    """Let what a descendant leaves behind become a child of this process, not of init (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def limit_resources(memory_gib: float) -> None:
    """Let allocations and files beyond the limits fail in this process, instead of the system choosing a victim."""
    _lower(resource.RLIMIT_FSIZE, LARGEST_FILE)
    if memory_gib > 0 and sys.platform == "linux":
        _lower(resource.RLIMIT_DATA, int(memory_gib * 2**30))


def _lower(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def spare_gib() -> float:
    """What workers may take by default: 80% of the machine's memory, or what is free where that is less."""
    memory = psutil.virtual_memory()
    return float(min(0.8 * memory.total, memory.available)) / 2**30


def kernel_oom_kills() -> int | None:
    """How many processes the kernel has killed since boot because memory ran out; None where it does not tell."""
    try:
        with open("/proc/vmstat", encoding="ascii") as lines:
            return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)
    except OSError:
        return None


def kill_group(pid: int) -> None:
    """SIGKILL a process group; one that has ended is no fault."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def kill_family(pid: int) -> None:
    """SIGKILL a process, its group, and what it started in sessions of their own and still is the parent of."""
    with suppress(psutil.Error):
        started = _family(psutil.Process(pid))
        kill_group(pid)
        _kill(started)


def kill_descendants(spare: Collection[int] = ()) -> None:
    """SIGKILL all that descends from this process, whatever session it is in.

    spare  children that are left alone, with what descends from them; where orphans are adopted these are children
    """
    deadline = time.monotonic() + END_SECONDS
    while time.monotonic() < deadline:
        children = [child for child in psutil.Process().children() if child.pid not in spare]
        living = [process for child in children for process in _family(child)]
        if not living:
            break
        _kill(living)
        psutil.wait_procs(living, timeout=0.2)


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.kill()


def _family(process: psutil.Process) -> list[psutil.Process]:
    """A process and its descendants, those that have ended left out."""
    family = [process]
    with suppress(psutil.Error):
        family += process.children(recursive=True)
    return [each for each in family if _is_alive(each)]


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
