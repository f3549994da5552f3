"""The nursery: a process that has torch loaded and forks a worker when it is asked to; it runs nobody's code itself.

What a worker leaves behind in a session of its own becomes a child of the nursery, which kills it.

It hears requests on a Unix socket, each with two descriptors for the worker: its own socket, and where it prints. It
tells `born` with the process number, and `died` with the exit code of each child.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from longatlas.processes import adopt_orphans, kill_descendants

MOST = 4096  # bytes of a request


def main(descriptor: int) -> None:
    """Serve until the engine's end of the socket closes."""
    from longatlas.measure import bench  # noqa: F401 - and torch with it, loaded once for all workers

    adopt_orphans()
    os.set_blocking(descriptor, True)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    os.set_blocking(wake_read, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    with socket.socket(fileno=descriptor) as control, suppress(OSError):  # the engine may be gone already
        _tell(control, {"ready": True})
        _serve(control, (wake_read, wake_write))
    kill_descendants()


def _serve(control: socket.socket, wake: tuple[int, int]) -> None:
    import selectors

    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    selector.register(wake[0], selectors.EVENT_READ)
    workers: set[int] = set()
    while True:
        ready = {key.fileobj for key, _ in selector.select()}
        if wake[0] in ready:
            _drain(wake[0])
            _tell_deaths(control, workers)
        if control in ready:
            text, descriptors, _, _ = socket.recv_fds(control, MOST, 2)
            if not text:
                return
            workers.add(_give_birth(json.loads(text), descriptors, control, wake))


def _give_birth(request: dict[str, Any], descriptors: list[int], control: socket.socket, wake: tuple[int, int]) -> int:
    """The number of the new worker's process; -1 where none could be made."""
    channel, output = descriptors
    try:
        child = os.fork()
    except OSError as error:
        _tell(control, {"born": -1, "why": str(error)})
        return -1
    if child == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        control.close()
        for number in wake:
            os.close(number)
        _become_worker(channel, output, float(request["memory_gib"]))
    os.close(channel)
    os.close(output)
    _tell(control, {"born": child})
    return child


def _become_worker(channel: int, output: int, memory_gib: float) -> None:
    """Never returns: the copy must not go on with the nursery's loop."""
    from longatlas.harness.workers import serve

    code = 1
    try:
        for number in (1, 2):
            os.dup2(output, number)
        os.close(output)
        serve.main(channel, memory_gib)
        code = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _tell_deaths(control: socket.socket, workers: set[int]) -> None:
    """Tell of the workers that have ended, once what they left behind has ended too."""
    died = [(child, code) for child, code in _deaths() if child in workers]
    workers.difference_update(child for child, _ in died)
    if died:
        kill_descendants(spare=workers)
    for child, code in died:
        _tell(control, {"died": child, "code": code})


def _deaths() -> Iterator[tuple[int, int]]:
    """Children that have ended, with their exit codes; adopted ones are among them."""
    while True:
        try:
            child, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if child == 0:
            return
        yield child, os.waitstatus_to_exitcode(status)


def _tell(control: socket.socket, news: dict[str, Any]) -> None:
    control.sendall(json.dumps(news).encode() + b"\n")


def _drain(descriptor: int) -> None:
    try:
        while os.read(descriptor, MOST):
            pass
    except BlockingIOError:
        return


if __name__ == "__main__":
    main(int(sys.argv[1]))
