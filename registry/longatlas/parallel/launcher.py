"""Starts ranks, waits for them, and returns what they return. Light: torch is loaded where ranks are."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from longatlas.errors import LongAtlasError, UnsupportedError

STARTUP_SECONDS = 120.0
ENDING_SECONDS = 10.0  # for the launcher to end its ranks
BACKENDS = {"cpu": "gloo", "cuda": "nccl"}


class RankError(RuntimeError):
    """A rank raised something, died or was not done in time; the text names it. Its traceback is the cause.

    status  "crash", or "timeout"
    """

    def __init__(self, text: str, traceback: str = "", status: str = "crash") -> None:
        super().__init__(text)
        self.status = status
        self.__cause__ = _RankTraceback(traceback) if traceback else None


class _RankTraceback(Exception):
    """The traceback of another process, as text."""

    def __str__(self) -> str:
        return "\n" + str(self.args[0])


class Raised(NamedTuple):
    """What a rank tells of an exception: its text with the type's name, its traceback, and when.

    refusal  the text alone where it is a LongAtlasError, else ""
    """

    text: str
    traceback: str
    seconds: float
    refusal: str = ""
    unsupported: bool = False


def run(
    n: int, function: Callable[..., Any], *arguments: Any, timeout: float = 600.0, device: str = "cpu"
) -> list[Any]:
    """Call `function(rank, n, *arguments)` in n processes of one process group; the list of what the ranks return.

    n          ranks; 1 is a plain call in this process, without a process group
    function   at the top level of a module that can be imported: it and the arguments are pickled, results too. Tensors
               in results come as tensors on the CPU, without a graph
    timeout    seconds that the ranks may take, once torch is loaded
    device     "cpu": backend gloo, one thread each; "cuda": nccl, and a GPU each

    All processes have ended when it returns or raises, and they end with this process, even by kill -9.

    Raises RankError that names the rank which raised, died or hung; LongAtlasError where a rank raised one, for what
    cannot be pickled, and for sizes out of range; UnsupportedError for more ranks than GPUs.
    """
    with Launcher() as launcher:
        return launcher.run(n, function, *arguments, timeout=timeout, device=device)


class Launcher:
    """Runs functions in ranks one after the other: torch, which takes seconds to load, is loaded once for all of them.

    A context manager; the process that starts the ranks is started by the first call.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Launcher:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def run(
        self, n: int, function: Callable[..., Any], *arguments: Any, timeout: float = 600.0, device: str = "cpu"
    ) -> list[Any]:
        """As longatlas.parallel.run."""
        _check(n, timeout, device)
        if n == 1:
            from longatlas.parallel.shards import returned

            return [returned(function(0, 1, *arguments))]
        with TemporaryDirectory(prefix="longatlas-ranks-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            (folder / "call").write_bytes(_pickled(function, arguments))
            request = {"n": n, "folder": name, "timeout": timeout, "device": device}
            return _results(folder, n, self._ask(request, timeout), timeout)

    def _ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        """What the launcher process says of the ranks, once all have ended."""
        try:
            if self._process is None:
                self._start()
            self._control.settimeout(timeout + ENDING_SECONDS)
            self._control.sendall(json.dumps(request).encode() + b"\n")
            return self._hear()
        except (OSError, ValueError) as error:
            self.close()
            raise RankError("the process that starts ranks has ended, or answers no more") from error
        except BaseException:
            self.close()  # a call that is left, as by Ctrl-C, leaves no rank at work
            raise

    def _start(self) -> None:
        self._control, there = socket.socketpair()
        with there:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "longatlas.parallel.ranks", str(there.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[there.fileno()],
                # Threads that a library starts while it loads would not survive the fork.
                env={"OPENBLAS_NUM_THREADS": "1", **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        self._lines = self._control.makefile("rb")
        self._control.settimeout(STARTUP_SECONDS)
        self._hear()

    def _hear(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._lines.readline())
        return answer

    def close(self) -> None:
        """End the launcher process, with all that it has started."""
        process, self._process = self._process, None
        if process is None:
            return
        self._lines.close()
        self._control.close()  # it ends then
        with suppress(subprocess.TimeoutExpired):
            process.wait(ENDING_SECONDS)
        process.kill()
        process.wait()


def _check(n: int, timeout: float, device: str) -> None:
    if type(n) is not int or n < 1:
        raise LongAtlasError(f"ranks is {n!r}; it must be a whole number of at least 1")
    if not timeout > 0:
        raise LongAtlasError(f"timeout is {timeout!r}; it must be a positive number of seconds")
    if device not in BACKENDS:
        raise LongAtlasError(f"device is {device!r}; ranks run on {' or '.join(BACKENDS)}")


def _pickled(function: Callable[..., Any], arguments: Sequence[Any]) -> bytes:
    name = getattr(function, "__qualname__", repr(function))
    if getattr(function, "__module__", "") == "__main__":
        raise LongAtlasError(f"{name} belongs to the script that is being run; ranks import it: put it into a module")
    try:
        return pickle.dumps((function, arguments))
    except Exception as error:
        raise LongAtlasError(
            f"{name} and its arguments cannot be sent to the ranks ({error}); a function must stand at the top level "
            "of a module, and no argument may hold a lambda, a local function or a graph"
        ) from None


def _results(folder: Path, n: int, answer: dict[str, Any], timeout: float) -> list[Any]:
    """What the ranks returned, by rank; raises what went wrong instead."""
    if "refused" in answer:
        raise UnsupportedError(answer["refused"])
    paths = [folder / f"{rank}.result" for rank in range(n)]
    if all(path.exists() for path in paths):
        return [pickle.loads(path.read_bytes()) for path in paths]
    raise _failure(folder, n, answer["codes"], set(answer["late"]), timeout)


def _failure(folder: Path, n: int, codes: list[int], late: set[int], timeout: float) -> Exception:
    """The cause of a failed run: a death before what a rank raised, for its peers then lose the connection to it."""
    raised = {rank: _raised(folder, rank) for rank in range(n)}
    silent = [rank for rank in range(n) if raised[rank] is None and not (folder / f"{rank}.result").exists()]
    died = [rank for rank in silent if rank not in late]
    if died:
        return RankError(f"rank {died[0]} of {n} {_ended(codes[died[0]])}", _stack(folder, died[0]))
    first = min(((told.seconds, rank) for rank, told in raised.items() if told), default=None)
    if first is None:
        stacks = "\n".join(f"rank {rank}:\n{_stack(folder, rank)}" for rank in sorted(late))
        who = f"rank{'s' if len(late) > 1 else ''} {', '.join(map(str, sorted(late)))} of {n}"
        return RankError(f"{who} not done after {timeout:g} s", stacks, "timeout")
    told = raised[first[1]]
    assert told is not None
    if told.refusal:
        return (UnsupportedError if told.unsupported else LongAtlasError)(told.refusal)
    return RankError(f"rank {first[1]} of {n} raised {told.text}", told.traceback)


def _raised(folder: Path, rank: int) -> Raised | None:
    path = folder / f"{rank}.raised"
    return Raised(*json.loads(path.read_text())) if path.exists() else None


def _stack(folder: Path, rank: int) -> str:
    """Where a rank was when it was ended by a fault or for the time, as Python's faulthandler writes it."""
    path = folder / f"{rank}.stack"
    return path.read_text(errors="replace").strip() if path.exists() else ""


def _ended(code: int) -> str:
    return (
        f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code} before it was done"
    )
