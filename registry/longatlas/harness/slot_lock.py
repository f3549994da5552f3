"""One timing at a time on a device: whoever comes second waits."""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

POLL_SECONDS = 0.25


class StoppedError(Exception):
    """The run was asked to stop; nothing is known about the cell that was being measured."""


@contextmanager
def device_slot(device: str, should_stop: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Hold the machine's slot for a device; says on stderr who holds it while it waits.

    Its file is in the system's temporary folder, or in LONGATLAS_SLOTS. The lock goes with the process that holds it,
    however that process ends. Raises StoppedError when `should_stop` says so while it waits.
    """
    folder = Path(os.environ.get("LONGATLAS_SLOTS") or tempfile.gettempdir())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"longatlas-{os.getuid()}-{device}.slot"
    with path.open("a+") as stream:
        if not _try_lock(stream):
            stream.seek(0)
            holder = stream.read().strip() or "another process"
            print(f"waiting: {holder} is measuring on {device}", file=sys.stderr, flush=True)
            while not _try_lock(stream):
                if should_stop():
                    raise StoppedError
                time.sleep(POLL_SECONDS)
        stream.truncate(0)
        stream.write(f"process {os.getpid()}")
        stream.flush()
        yield


def _try_lock(stream: TextIO) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
