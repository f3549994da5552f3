"""What workers print: into a log file of bounded size, with the last words of each request at hand."""

from __future__ import annotations

import os
from pathlib import Path

KEPT = 1 << 20  # bytes that reach the log
MOST = 64 << 20  # bytes printed before the worker is stopped
LARGEST_LOG = 16 << 20
LAST = 16000  # bytes; after a fault Python lists every extension module


class Log:
    """The workers' log: a file, begun anew when it has grown beyond 16 MiB, or None for this process's stderr."""

    def __init__(self, path: Path | None) -> None:
        too_large = path is not None and path.exists() and path.stat().st_size > LARGEST_LOG
        place = os.dup(2) if path is None else path
        self._stream = open(place, "wb" if too_large else "ab", buffering=0)  # noqa: SIM115 - closed by close()

    @property
    def descriptor(self) -> int:
        return self._stream.fileno()

    def write(self, text: bytes) -> None:
        """Append; a disk that is full loses the log, not the run."""
        try:
            self._stream.write(text)
        except OSError:
            return

    def close(self) -> None:
        self._stream.close()


class Output:
    """What a worker prints for one cell or request."""

    def __init__(self, log: Log) -> None:
        self._log, self._printed, self._tail = log, 0, b""

    def take(self, text: bytes) -> None:
        """Take in what was printed; beyond 1 MiB only the end is remembered."""
        room = KEPT - self._printed
        if room > 0:
            self._log.write(text[:room])
        if 0 <= room < len(text):
            self._log.write(b"\n[more than 1 MiB was printed; the rest of it is left out]\n")
        self._printed += len(text)
        self._tail = (self._tail + text)[-LAST:]

    @property
    def is_too_much(self) -> bool:
        return self._printed > MOST

    @property
    def last_words(self) -> str:
        """The last line; after a fault the line of Python that it happened at."""
        lines = self._tail.decode(errors="replace").strip().splitlines()
        for number, line in enumerate(lines):
            if line.endswith("(most recent call first):") and number + 1 < len(lines):
                return lines[number + 1].strip()
        return lines[-1].strip() if lines else ""
