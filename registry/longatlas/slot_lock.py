"""One timing at a time on a device: whoever comes second waits."""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def device_slot(device: str) -> Iterator[None]:
    """Hold the machine's slot for a device; says on stderr who holds it while it waits.

    Its file is in the system's temporary folder, or in LONGATLAS_SLOTS. The lock goes with the process that holds it,
    however that process ends.
    """
    folder = Path(os.environ.get("LONGATLAS_SLOTS") or tempfile.gettempdir())
    path = folder / f"longatlas-{os.getuid()}-{device}.slot"
    with path.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            holder = stream.read().strip() or "another process"
            print(f"waiting: {holder} is measuring on {device}", file=sys.stderr)
            fcntl.flock(stream, fcntl.LOCK_EX)
        stream.truncate(0)
        stream.write(f"process {os.getpid()}")
        stream.flush()
        yield
