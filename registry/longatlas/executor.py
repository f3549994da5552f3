"""Runs cells in persistent worker processes, one per method and device; the parent never touches a device."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from longatlas.cells import Cell

Row = dict[str, Any]

POLL_SECONDS = 0.25
TAIL_BYTES = 2000


class StoppedError(Exception):
    """The run was asked to stop; nothing is known about the cell that was being measured."""


class Worker:
    """One worker process. `measure` answers with rows whatever happens to it."""

    def __init__(self, cache: Path, log: Path, memory_gib: float) -> None:
        self._cache, self._log_path = cache, log
        self._memory_gib = memory_gib or 0.8 * psutil.virtual_memory().total / 2**30
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""

    def measure(self, cell: Cell, timeout: float, should_stop: Callable[[], bool]) -> list[Row]:
        """The rows of a cell; a worker that dies or hangs gives a row `crash`, `oom` or `timeout`.

        Raises StoppedError when `should_stop` says so; the worker is gone then.
        """
        process = self._start()
        request = {"cell": asdict(cell), "cache": str(self._cache)}
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            return [self._obituary()]
        deadline = time.monotonic() + timeout
        while True:
            line = self._read_line(process)
            if line is not None:
                rows: list[Row] = json.loads(line)["rows"]
                if rows[0].get("status") == "oom":
                    self.stop()  # its heap may be in pieces
                return rows
            if process.poll() is not None:
                return [self._obituary()]
            if should_stop():
                self.stop()
                raise StoppedError
            if time.monotonic() > deadline:
                self.stop()
                return [{"status": "timeout", "reason": f"not done after {timeout:g} s"}]

    def stop(self) -> None:
        """End the process and everything it started."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._buffer = b""
            with self._log_path.open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "longatlas.worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    start_new_session=True,
                    env={**os.environ, "LONGATLAS_WORKER_MEMORY_GIB": f"{self._memory_gib:.3f}"},
                )
        return self._process

    def _read_line(self, process: subprocess.Popen[bytes]) -> bytes | None:
        """A whole line, or None when none came within a moment."""
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if selector.select(POLL_SECONDS):
                self._buffer += os.read(process.stdout.fileno(), 1 << 16)
        line, newline, rest = self._buffer.partition(b"\n")
        if not newline:
            return None
        self._buffer = rest
        return line

    def _obituary(self) -> Row:
        """The row for a worker that died: how it ended, and the last line it wrote."""
        process = self._process
        assert process is not None
        code = process.wait()
        self.stop()
        if code == -signal.SIGKILL:
            return {"status": "oom", "reason": "killed by the system, most often because memory ran out"}
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        last = self._last_words()
        return {"status": "crash", "reason": f"the worker ended with {how}" + (f": {last}" if last else "")}

    def _last_words(self) -> str:
        with self._log_path.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = log.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else ""


class Executor:
    """Keeps a worker for each method; use it as a context manager so that all of them end."""

    def __init__(self, cache: Path, log: Path, memory_gib: float = 0.0) -> None:
        cache.mkdir(parents=True, exist_ok=True)
        self._cache, self._log, self._memory_gib = cache, log, memory_gib
        self._workers: dict[tuple[str, str], Worker] = {}

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in self._workers.values():
            worker.stop()

    def measure(self, cell: Cell, timeout: float, should_stop: Callable[[], bool]) -> list[Row]:
        """See Worker.measure."""
        place = (cell.method, cell.device)
        if place not in self._workers:
            self._workers[place] = Worker(self._cache, self._log, self._memory_gib)
        return self._workers[place].measure(cell, timeout, should_stop)
