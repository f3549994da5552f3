"""What a worker sets up for itself before it runs anybody's code."""

from __future__ import annotations

import resource
import sys

LARGEST_FILE = 4 << 30  # bytes; a method that writes without end gets an error instead of the disk


def limit(memory_gib: float) -> None:
    """Let allocations and files beyond the limits fail in this process, instead of the system choosing a victim."""
    _lower(resource.RLIMIT_FSIZE, LARGEST_FILE)
    if memory_gib > 0 and sys.platform == "linux":
        _lower(resource.RLIMIT_DATA, int(memory_gib * 2**30))


def _lower(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def kernel_oom_kills() -> int | None:
    """How many processes the kernel has killed since boot because memory ran out; None where it does not tell."""
    try:
        with open("/proc/vmstat", encoding="ascii") as lines:
            return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)
    except OSError:
        return None
