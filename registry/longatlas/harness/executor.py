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

from longatlas.harness.cells import Cell
from longatlas.harness.slot_lock import StoppedError

__all__ = ["Executor", "StoppedError", "Worker"]

Row = dict[str, Any]

POLL_SECONDS = 0.25
STARTUP_SECONDS = 120.0
TAIL_BYTES = 4000
OUT_OF_MEMORY = ("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory", "bad_alloc")


class Worker:
    """One worker process. `measure` answers with rows whatever happens to it."""

    def __init__(self, cache: Path, log: Path, memory_gib: float) -> None:
        self._cache, self._log_path = cache, log
        self._memory_gib = memory_gib or _spare_gib()
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self._ready = False
        self._log_start = 0

    def measure(self, cell: Cell, timeout: float, should_stop: Callable[[], bool]) -> list[Row]:
        """The rows of a cell; a worker that dies or hangs gives a row `crash`, `oom` or `timeout`.

        Raises StoppedError when `should_stop` says so; the worker is gone then.
        """
        process = self._start()
        self._log_start = self._log_path.stat().st_size
        request = {"cell": asdict(cell), "cache": str(self._cache)}
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            return [self._obituary()]
        deadline = time.monotonic() + (timeout if self._ready else STARTUP_SECONDS)
        while True:
            line = self._read_line(process)
            if line is not None and not self._ready:
                self._ready, deadline = True, time.monotonic() + timeout
            elif line is not None:
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
                what = f"not done after {timeout:g} s" if self._ready else "the worker did not start"
                self.stop()
                return [{"status": "timeout", "reason": what}]

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
            self._buffer, self._ready = b"", False
            with self._log_path.open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "longatlas.harness.worker"],
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
        reason = f"the worker ended with {how}" + (f": {last}" if last else "")
        return {"status": "oom" if is_about_memory(last) else "crash", "reason": reason}

    def _last_words(self) -> str:
        """The last line that the worker wrote in this cell; after a fault the line of Python it was at."""
        with self._log_path.open("rb") as log:
            log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = log.read().decode(errors="replace").strip().splitlines()
        for number, line in enumerate(lines):
            if line.endswith("(most recent call first):") and number + 1 < len(lines):
                return lines[number + 1].strip()
        return lines[-1].strip() if lines else ""


def _spare_gib() -> float:
    """What a worker may take by default: 80% of the machine's memory, or what is free where that is less."""
    memory = psutil.virtual_memory()
    return float(min(0.8 * memory.total, memory.available)) / 2**30


def is_about_memory(text: str) -> bool:
    """Whether an error's text says that memory ran out."""
    return any(words in text.lower() for words in OUT_OF_MEMORY)


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
