"""The engine's side of how workers come to be: forked by the nursery on Linux, started anew elsewhere."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any, Protocol

from longatlas.processes import END_SECONDS

STARTUP_SECONDS = 120.0


class StartError(Exception):
    """No worker could be started; the text says why."""


class Births(Protocol):
    """Starts workers and knows how they ended."""

    def birth(self, channel: int, output: int, memory_gib: float) -> int:
        """Start a worker with these descriptors; its process number. Raises StartError."""

    def exit_code(self, pid: int, seconds: float) -> int | None:
        """How a worker ended, negative for a signal; None while it lives, waited for at most `seconds`."""

    def close(self) -> None:
        """End the nursery; workers of the nursery end with it."""


class Nursery:
    """Workers forked by a process that has torch loaded (see longatlas.harness.workers.nursery)."""

    def __init__(self, log: int) -> None:
        """log  descriptor of the file for what the nursery itself prints"""
        self._log = log
        self._codes: dict[int, int] = {}
        self._living: set[int] = set()
        self._process: subprocess.Popen[bytes] | None = None

    def _start(self) -> None:
        """It takes seconds to load torch: a run that finds all its cells in the store never starts it."""
        self._control, there = socket.socketpair()
        with there:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "longatlas.harness.workers.nursery", str(there.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=[there.fileno()],
                start_new_session=True,
                # Threads that a library starts while it loads would not survive the fork.
                env={"OPENBLAS_NUM_THREADS": "1", **os.environ},
            )
        self._text = b""
        self._news: list[dict[str, Any]] = []
        self._ready = False

    def birth(self, channel: int, output: int, memory_gib: float) -> int:
        if self._process is not None and self._process.poll() is not None:  # somebody killed it
            self._bury_all()
            self.close()
        if self._process is None:
            self._start()
        if not self._ready:
            self._await("ready", STARTUP_SECONDS)
            self._ready = True
        request = json.dumps({"memory_gib": memory_gib}).encode()
        try:
            socket.send_fds(self._control, [request], [channel, output])
        except OSError:
            raise StartError("the process that starts workers has ended") from None
        news = self._await("born", STARTUP_SECONDS)
        if news["born"] < 0:
            raise StartError(f"no worker could be started: {news['why']}")
        self._living.add(news["born"])
        return int(news["born"])

    def exit_code(self, pid: int, seconds: float) -> int | None:
        deadline = time.monotonic() + seconds
        while pid not in self._codes:
            left = deadline - time.monotonic()
            try:
                if not self._hear(max(left, 0.0)) and left <= 0:
                    return None
            except StartError:
                self._bury_all()
        return self._codes[pid]

    def _bury_all(self) -> None:
        """The kernel kills the nursery's children with it."""
        self._codes |= dict.fromkeys(self._living, -signal.SIGKILL)
        self._living.clear()

    def close(self) -> None:
        if self._process is None:
            return
        self._control.close()  # it ends then, with its workers and all that they left behind
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(2 * END_SECONDS if self._ready else 0)
        self._process.kill()
        self._process.wait()
        self._process = None

    def _await(self, what: str, seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while True:
            for news in self._news:
                if what in news:
                    self._news.remove(news)
                    return news
            left = deadline - time.monotonic()
            if left <= 0:
                raise StartError(f"no worker was started within {seconds:g} s")
            self._hear(left)

    def _hear(self, seconds: float) -> bool:
        """Take in what the nursery says within `seconds`; whether there was anything. Raises StartError at its end."""
        self._control.settimeout(max(seconds, 0.001))
        try:
            text = self._control.recv(65536)
        except (TimeoutError, BlockingIOError):
            return False
        except OSError:
            text = b""
        finally:
            self._control.settimeout(None)
        if not text:
            raise StartError("the process that starts workers has ended; its last words are in the workers' log")
        *lines, self._text = (self._text + text).split(b"\n")
        for line in lines:
            news = json.loads(line)
            if "died" in news:
                self._codes[news["died"]] = news["code"]
                self._living.discard(news["died"])
            else:
                self._news.append(news)
        return True


class Spawner:
    """Workers started one by one, where a process with torch loaded cannot be forked safely."""

    def __init__(self, log: int) -> None:
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def birth(self, channel: int, output: int, memory_gib: float) -> int:
        process = subprocess.Popen(
            [sys.executable, "-m", "longatlas.harness.workers.serve", str(channel), str(memory_gib)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[channel],
        )
        self._processes[process.pid] = process
        return process.pid

    def exit_code(self, pid: int, seconds: float) -> int | None:
        try:
            return self._processes[pid].wait(max(seconds, 0.001))
        except subprocess.TimeoutExpired:
            return None

    def close(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()


def births(log: int) -> Births:
    """What starts workers on this system; `log` is the descriptor of the workers' log."""
    return Nursery(log) if sys.platform == "linux" else Spawner(log)
