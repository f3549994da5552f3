"""How a process ends with the one that started it, and how nothing that it started outlives it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Collection
from contextlib import suppress

import psutil

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
END_SECONDS = 5.0  # after SIGKILL; a process that waits for a disk or a device takes its time


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


def kill_descendants(spare: Collection[int] = ()) -> list[int]:
    """SIGKILL all that descends from this process, whatever session it is in; the numbers of those that were killed.

    spare  children that are left alone, with what descends from them; where orphans are adopted these are children
    """
    killed: list[int] = []
    deadline = time.monotonic() + END_SECONDS
    while time.monotonic() < deadline:
        found = [child for child in psutil.Process().children() if child.pid not in spare]
        living = [process for child in found for process in _family(child)]
        if not living:
            break
        for process in living:
            with suppress(psutil.Error):
                process.kill()
        killed += [process.pid for process in living]
        psutil.wait_procs(living, timeout=0.2)
    return killed


def _family(process: psutil.Process) -> list[psutil.Process]:
    """A process and its descendants, those that have ended left out."""
    found = [process]
    with suppress(psutil.Error):
        found += process.children(recursive=True)
    return [each for each in found if _is_alive(each)]


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
