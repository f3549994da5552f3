"""The process that starts workers: it has torch loaded and forks them, runs nobody's code, and ends what they leave.

On Linux a worker is a fork, made in milliseconds; elsewhere, where a process with torch loaded cannot be forked
safely, it is a new program. What a worker leaves behind in a session of its own becomes a child of this process, which
kills it.

A request comes with two descriptors for the worker: its channel and where it prints. What became of it is told on that
channel, of which this process holds a copy: {"pid": ...} when it was started, {"failed": why} when it could not be, and
{"ended": exit code} after its end, once all that it had started has ended too.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

from longatlas.processes import END_SECONDS, adopt_orphans, kill_descendants

MOST = 4096  # bytes of a request
FORKS = sys.platform == "linux"


class Starter:
    """The engine's end. The process is started with the first worker, for to load torch takes it seconds.

    log  descriptor of the file for what it prints itself
    """

    def __init__(self, log: int) -> None:
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, channel: int, output: int, memory_gib: float) -> subprocess.Popen[bytes]:
        """Ask for a worker that answers on `channel` and prints to `output`; its parent. Raises OSError."""
        if self._process is None or self._process.poll() is not None:  # somebody killed it
            self.close()
            self._process = self._begin()
        socket.send_fds(self._control, [json.dumps({"memory_gib": memory_gib}).encode()], [channel, output])
        return self._process

    def _begin(self) -> subprocess.Popen[bytes]:
        self._control, there = socket.socketpair()
        with there:
            return subprocess.Popen(
                [sys.executable, "-m", "longatlas.harness.workers.starter", str(there.fileno()), "forks" * FORKS],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=[there.fileno()],
                start_new_session=True,
                # Threads that a library starts while it loads would not survive the fork.
                env={"OPENBLAS_NUM_THREADS": "1", **os.environ},
            )

    def close(self) -> None:
        """End it, with its workers and all that they left behind."""
        if self._process is None:
            return
        self._control.close()
        self._process.terminate()  # heeded while it loads torch only
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(2 * END_SECONDS)
        self._process.kill()
        self._process.wait()
        self._process = None


def main(descriptor: int, forks: bool) -> None:
    """Serve until the engine's end of the socket closes."""
    if forks:
        from longatlas.measure import requests  # noqa: F401 - and torch with it, loaded once for all workers
    adopt_orphans()
    os.set_blocking(descriptor, True)
    with socket.socket(fileno=descriptor) as control, suppress(OSError):  # the engine may be gone already
        _Server(control, forks).serve()
    kill_descendants()


class _Server:
    """Starts workers as they are asked for on `control`; `_workers` are those that live, with their channels."""

    def __init__(self, control: socket.socket, forks: bool) -> None:
        self._control, self._forks = control, forks
        self._workers: dict[int, socket.socket] = {}
        self._deaths, self._bell = socket.socketpair()
        for end in (self._deaths, self._bell):
            end.setblocking(False)

    def serve(self) -> None:
        signal.signal(signal.SIGTERM, _ignore)  # a handler, not SIG_IGN, which a program that is started would inherit
        signal.signal(signal.SIGCHLD, _ignore)
        signal.set_wakeup_fd(self._bell.fileno())
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            selector.register(self._deaths, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if self._deaths in ready:
                    self._deaths.recv(MOST)
                    self._tell_of_ended()
                if self._control in ready:
                    text, descriptors, _, _ = socket.recv_fds(self._control, MOST, 2)
                    if not text:
                        signal.set_wakeup_fd(-1)
                        return
                    channel, output = descriptors
                    self._start(socket.socket(fileno=channel), output, float(json.loads(text)["memory_gib"]))

    def _start(self, channel: socket.socket, output: int, memory_gib: float) -> None:
        channel.set_inheritable(False)
        os.set_inheritable(output, False)
        try:
            pid = os.fork() if self._forks else _spawn(channel, output, memory_gib)
        except OSError as error:
            _tell(channel, {"failed": f"no worker could be started: {error}"})
            channel.close()
        else:
            if pid == 0:
                self._leave()
                _become_worker(channel.detach(), output, memory_gib)
            _tell(channel, {"pid": pid})
            self._workers[pid] = channel
        os.close(output)

    def _leave(self) -> None:
        """Give up in a fork what is this process's."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        for each in (self._control, self._deaths, self._bell, *self._workers.values()):
            each.close()

    def _tell_of_ended(self) -> None:
        """Tell of the workers that have ended, once what they left behind has ended too."""
        ended = [(self._workers.pop(child), code) for child, code in _ended_children() if child in self._workers]
        if ended:
            kill_descendants(spare=self._workers)
        for channel, code in ended:
            _tell(channel, {"ended": code})
            channel.close()


def _ignore(number: int, frame: FrameType | None) -> None:
    """A signal that only wakes the loop, or not even that."""


def _spawn(channel: socket.socket, output: int, memory_gib: float) -> int:
    """A worker that is a new program; the number of its process."""
    inherited = os.dup(channel.fileno())
    os.set_inheritable(inherited, True)
    command = [sys.executable, "-m", "longatlas.harness.workers.serve", str(inherited), str(memory_gib)]
    prints = [(os.POSIX_SPAWN_DUP2, output, number) for number in (1, 2)]
    try:
        return os.posix_spawn(sys.executable, command, os.environ, file_actions=prints)
    finally:
        os.close(inherited)


def _become_worker(descriptor: int, output: int, memory_gib: float) -> NoReturn:
    """What the fork goes on with: this loop must not go on twice."""
    from longatlas.harness.workers import serve

    code = 1
    try:
        for number in (1, 2):
            os.dup2(output, number)
        os.close(output)
        serve.main(descriptor, memory_gib)
        code = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _ended_children() -> Iterator[tuple[int, int]]:
    """Children that have ended, with their exit codes, negative for a signal; adopted ones are among them."""
    with suppress(ChildProcessError):
        while True:
            child, status = os.waitpid(-1, os.WNOHANG)
            if child == 0:
                return
            yield child, os.waitstatus_to_exitcode(status)


def _tell(channel: socket.socket, news: dict[str, Any]) -> None:
    """On a line of its own: the worker may have been ended in the middle of one."""
    with suppress(OSError):
        channel.sendall(b"\n" + json.dumps(news).encode() + b"\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] == "forks")
