"""The engine's handle on one worker: asks it, and tells what became of it when no answer comes."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil

from longatlas.errors import is_about_memory
from longatlas.harness.slot_lock import StoppedError
from longatlas.harness.workers.births import Births, StartError
from longatlas.harness.workers.limits import kernel_oom_kills
from longatlas.harness.workers.output import MOST_FOR_ONE_CELL, CellOutput, Log
from longatlas.processes import END_SECONDS

Answer = dict[str, Any]

POLL_SECONDS = 0.25


class LostError(Exception):
    """The worker gave no answer; `status` is crash, oom or timeout, `reason` says how it ended.

    was_idle  it had died before it was asked
    """

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason, self.was_idle = status, reason, False


class Worker:
    """One worker process, started when it is first asked and again after it was lost."""

    def __init__(self, births: Births, log: Log, memory_gib: float) -> None:
        self._births, self._log = births, log
        self._memory_gib = memory_gib or _spare_gib()
        self._pid: int | None = None
        self._channel: socket.socket | None = None
        self._pipe = -1
        self._text = b""
        self._asked = 0
        self._kills: int | None = None
        self._output = CellOutput(log)

    def begin_cell(self) -> None:
        """What is printed from here on belongs to another cell."""
        self._output = CellOutput(self._log)

    def ask(self, what: str, arguments: dict[str, Any], *, timeout: float, should_stop: Callable[[], bool]) -> Answer:
        """Send a request and wait for its answer, at most `timeout` seconds.

        Raises LostError when none comes, and StoppedError when `should_stop` says so; the worker is gone then.
        """
        self.start()
        self._asked += 1
        request = {"do": what, "id": self._asked, "with": arguments}
        try:
            assert self._channel is not None
            self._channel.sendall(json.dumps(request).encode() + b"\n")
        except OSError:
            lost = self._obituary()
            lost.was_idle = True
            raise lost from None
        return self._await(timeout, should_stop)

    def stop(self) -> None:
        """End the process and everything it started."""
        pid, self._pid = self._pid, None
        if pid is None:
            return
        if self._births.exit_code(pid, 0) is None:
            _kill_family(pid)
            self._births.exit_code(pid, 2 * END_SECONDS)
        else:
            _kill_group(pid)  # what it started may outlive it
        assert self._channel is not None
        self._channel.close()
        self._drain()
        os.close(self._pipe)

    def start(self) -> None:
        """Start the process unless it runs. Raises LostError when it cannot be started."""
        if self._pid is not None:
            return
        self._text = b""
        self._channel, there = socket.socketpair()
        self._pipe, write = os.pipe()
        os.set_blocking(self._pipe, False)
        self._kills = kernel_oom_kills()
        try:
            self._pid = self._births.birth(there.fileno(), write, self._memory_gib)
        except StartError as error:
            self._channel.close()
            os.close(self._pipe)
            raise LostError("crash", str(error)) from None
        finally:
            there.close()
            os.close(write)

    def _await(self, timeout: float, should_stop: Callable[[], bool]) -> Answer:
        deadline = time.monotonic() + timeout
        while True:
            answer = self._read()
            if answer is not None:
                return self._checked(answer)
            if should_stop():
                self.stop()
                raise StoppedError
            if self._output.is_too_much:
                self.stop()
                raise LostError("crash", f"it printed more than {MOST_FOR_ONE_CELL >> 20} MiB")
            if time.monotonic() > deadline:
                self.stop()
                raise LostError("timeout", f"not done after {timeout:g} s")

    def _checked(self, answer: Answer) -> Answer:
        if "forked" in answer:
            self.stop()
            raise LostError("crash", f"the method forked, and process {answer['forked']} came back from its call")
        if answer["id"] != self._asked:
            self.stop()
            raise LostError("crash", "the worker answered something else than what it was asked")
        rows = answer.get("rows")
        if rows and rows[0].get("status") == "oom":
            self.stop()  # its heap may be in pieces
        elif rows and answer["children"]:
            self.stop()  # what a method left running would disturb the next timing
        return answer

    def _read(self) -> Answer | None:
        """An answer, or None when none came within a moment; takes in what was printed. Raises LostError."""
        assert self._channel is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._channel, selectors.EVENT_READ)
            selector.register(self._pipe, selectors.EVENT_READ)
            ready = {key.fileobj for key, _ in selector.select(POLL_SECONDS)}
        if self._pipe in ready:
            self._drain()
        if self._channel in ready:
            try:
                text = self._channel.recv(1 << 16)
            except OSError:
                text = b""
            if not text:
                raise self._obituary()
            self._text += text
        elif self._pid is not None and self._births.exit_code(self._pid, 0) is not None:
            raise self._obituary()  # what it started may hold the socket open
        line, newline, rest = self._text.partition(b"\n")
        if not newline:
            return None
        self._text = rest
        answer: Answer = json.loads(line)
        return answer

    def _drain(self) -> None:
        with suppress(BlockingIOError):
            for _ in range(64):
                text = os.read(self._pipe, 1 << 16)
                if not text:
                    return
                self._output.take(text)

    def _obituary(self) -> LostError:
        """How the worker ended, with the last line it wrote."""
        assert self._pid is not None
        code = self._births.exit_code(self._pid, 10)
        self.stop()
        last = self._output.last_words
        if code is None:
            return LostError("crash", "the worker closed its connection to the engine")
        if code == -signal.SIGKILL:
            return self._killed()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        reason = f"the worker ended with {how}" + (f": {last}" if last else "")
        return LostError("oom" if is_about_memory(last) else "crash", reason)

    def _killed(self) -> LostError:
        kills = kernel_oom_kills()
        if kills is None:
            return LostError("oom", "killed by the system, most often because memory ran out")
        if kills != self._kills:
            return LostError("oom", "killed by the system because the machine's memory ran out")
        return LostError("crash", "killed with SIGKILL by another process; the machine's memory had not run out")


def _kill_family(pid: int) -> None:
    """A living process, and what it started in sessions of their own; the nursery finds what has no parent left."""
    started: list[psutil.Process] = []
    with suppress(psutil.Error):
        started = psutil.Process(pid).children(recursive=True)
    _kill_group(pid)
    for process in started:
        with suppress(psutil.Error):
            process.kill()


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _spare_gib() -> float:
    """What a worker may take by default: 80% of the machine's memory, or what is free where that is less."""
    memory = psutil.virtual_memory()
    return float(min(0.8 * memory.total, memory.available)) / 2**30
