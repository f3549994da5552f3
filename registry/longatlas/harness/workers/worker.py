"""The engine's handle on one worker: asks it, and tells what became of it when no answer comes."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from longatlas.errors import is_about_memory
from longatlas.harness.slot_lock import StoppedError
from longatlas.harness.workers.output import MOST, Log, Output
from longatlas.harness.workers.starter import Starter
from longatlas.processes import END_SECONDS, kernel_oom_kills, kill_family, kill_group

Answer = dict[str, Any]

POLL_SECONDS = 0.25
START_SECONDS = 120.0


class LostError(Exception):
    """The worker gave no answer; `status` is crash, oom or timeout, `reason` says how it ended.

    was_idle  it had ended before it was asked
    """

    def __init__(self, status: str, reason: str, *, was_idle: bool = False) -> None:
        super().__init__(reason)
        self.status, self.reason, self.was_idle = status, reason, was_idle


class Worker:
    """One worker process, started when it is first asked and again after it was lost."""

    def __init__(self, starter: Starter, log: Log, memory_gib: float) -> None:
        self._starter, self._log, self._memory_gib = starter, log, memory_gib
        self._channel: socket.socket | None = None
        self._asked = 0
        self.begin()

    def begin(self) -> None:
        """What is printed from here on belongs to another cell or request."""
        self._output = Output(self._log)

    def start(self) -> None:
        """Start the process unless it runs. Raises LostError when it cannot be started."""
        if self._channel is not None:
            return
        self._inbox: deque[Answer] = deque()
        self._text, self._pid = b"", 0
        self._code: int | None = None  # of its end
        self._kills = kernel_oom_kills()
        self._channel, there = socket.socketpair()
        self._pipe, write = os.pipe()
        os.set_blocking(self._pipe, False)
        try:
            self._parent = self._starter.start(there.fileno(), write, self._memory_gib)
        except OSError:
            raise self._lost("crash", "the process that starts workers has ended") from None
        finally:
            there.close()
            os.close(write)
        self._expect(START_SECONDS, "crash", f"no worker was started within {START_SECONDS:g} s")
        while not self._pid:
            wait([self])
            self.poll()

    def ask(
        self,
        name: str,
        arguments: Mapping[str, Any],
        *,
        timeout: float,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Answer:
        """Send a request and wait for its answer, at most `timeout` seconds.

        Raises LostError when none comes, and StoppedError when `should_stop` says so; the worker is gone then.
        """
        self.send(name, arguments, timeout=timeout)
        while (answer := self.poll()) is None:
            if should_stop():
                self.stop()
                raise StoppedError
            wait([self])
        return answer

    def send(
        self,
        name: str,
        arguments: Mapping[str, Any],
        *,
        timeout: float,
        told: Callable[[Any], None] = lambda value: None,
    ) -> None:
        """Send a request; `poll` gives its answer. `told` hears what it tells before. Raises LostError."""
        self.start()
        self._receive()
        if self._code is not None:
            raise self._death(was_idle=True)
        self._asked += 1
        self._told = told
        self._expect(timeout, "timeout", f"not done after {timeout:g} s")
        assert self._channel is not None
        with suppress(OSError):  # it has ended: `poll` says how
            request = {"do": name, "id": self._asked, "with": dict(arguments)}
            self._channel.sendall(json.dumps(request).encode() + b"\n")

    def poll(self) -> Answer | None:
        """The answer to what it was asked; None while there is none. Raises LostError."""
        self._receive()
        while self._inbox:
            message = self._inbox.popleft()
            if "pid" in message:
                self._pid = message["pid"]
                return None
            if "failed" in message:
                raise self._lost("crash", message["failed"])
            if "told" not in message:
                return self._checked(message)
            if message["id"] == self._asked:
                self._told(message["told"])
        if self._code is not None:
            raise self._death()
        if self._output.is_too_much:
            raise self._lost("crash", f"it printed more than {MOST >> 20} MiB")
        if time.monotonic() > self._deadline:
            raise self._lost(*self._late)
        return None

    def stop(self) -> None:
        """End the process and everything it started."""
        if self._channel is None:
            return
        if self._code is not None and self._pid:
            kill_group(self._pid)  # what it started may outlive it
        elif self._pid:
            kill_family(self._pid)
            deadline = time.monotonic() + 2 * END_SECONDS
            while self._code is None and time.monotonic() < deadline:
                wait([self])
                self._receive()
        self._channel.close()
        self._channel = None
        self._drain()
        if self._pipe >= 0:
            os.close(self._pipe)

    def descriptors(self) -> list[int]:
        """What can be waited for."""
        ends = [self._channel.fileno() if self._channel else -1, self._pipe]
        return [end for end in ends if end >= 0]

    def _expect(self, seconds: float, status: str, reason: str) -> None:
        self._deadline, self._late = time.monotonic() + seconds, (status, reason)

    def _checked(self, answer: Answer) -> Answer:
        if "forked" in answer:
            raise self._lost("crash", f"the method forked, and process {answer['forked']} came back from its call")
        if answer.get("id") != self._asked:
            raise self._lost("crash", "the worker answered something else than what it was asked")
        rows = answer.get("rows")
        if rows and (rows[0].get("status") == "oom" or answer["children"]):
            self.stop()  # its heap may be in pieces; what a method left running would disturb the next timing
        return answer

    def _receive(self) -> None:
        """Take in what it has printed and said, and notice its end."""
        self._drain()
        assert self._channel is not None
        text = b""
        try:
            text = self._channel.recv(1 << 16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            if self._parent.poll() is None:  # what the worker has started may hold the channel open
                return
        except OSError:
            pass
        *lines, self._text = (self._text + text).split(b"\n")
        for message in map(_message, lines):
            self._code = message.get("ended", self._code)
            if message and "ended" not in message:
                self._inbox.append(message)
        if not text and self._code is None:
            self._code = -signal.SIGKILL  # as its parent died, which would have told another end

    def _drain(self) -> None:
        with suppress(BlockingIOError):
            for _ in range(64):
                if self._pipe < 0:
                    return
                text = os.read(self._pipe, 1 << 16)
                self._output.take(text)
                if not text:
                    os.close(self._pipe)
                    self._pipe = -1

    def _lost(self, status: str, reason: str) -> LostError:
        self.stop()
        return LostError(status, reason)

    def _death(self, *, was_idle: bool = False) -> LostError:
        """How the worker ended, with the last line it wrote."""
        code, was_started = self._code or 0, bool(self._pid)
        self.stop()
        last = self._output.last_words
        if not was_started:
            reason = "the process that starts workers has ended; its last words are in the workers' log"
            return LostError("crash", reason)
        if code == -signal.SIGKILL:
            return LostError(*self._killed(), was_idle=was_idle)
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        reason = f"the worker ended with {how}" + (f": {last}" if last else "")
        return LostError("oom" if is_about_memory(last) else "crash", reason, was_idle=was_idle)

    def _killed(self) -> tuple[str, str]:
        kills = kernel_oom_kills()
        if kills is None:
            return "oom", "killed by the system, most often because memory ran out"
        if kills != self._kills:
            return "oom", "killed by the system because the machine's memory ran out"
        return "crash", "killed with SIGKILL by another process; the machine's memory had not run out"


def wait(workers: Iterable[Worker]) -> None:
    """Wait until one of the workers has said or printed something, at most a quarter of a second."""
    with selectors.DefaultSelector() as selector:
        for worker in workers:
            for descriptor in worker.descriptors():
                selector.register(descriptor, selectors.EVENT_READ)
        selector.select(POLL_SECONDS)


def _message(line: bytes) -> Answer:
    """A line as a message; empty where it is none, as that of a worker that was ended in the middle of it."""
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}
