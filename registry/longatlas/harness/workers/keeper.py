"""The keeper: runs a command, ends with whoever started it, and then ends all that the command has started.

    python -m longatlas.harness.workers.keeper COMMAND [ARGUMENT ...]

Its exit code is the command's; 128 + n where signal n ended that.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from types import FrameType
from typing import NoReturn

from longatlas.processes import adopt_orphans, end_with_parent, kill_descendants


def kept(command: list[str]) -> list[str]:
    """A command with its keeper."""
    return [sys.executable, "-m", __name__, *command]


def main(command: list[str]) -> NoReturn:
    """Run the command to its end, to SIGTERM, or to the end of the parent, whichever comes first."""
    signal.signal(signal.SIGTERM, _end)
    end_with_parent(signal.SIGTERM)
    adopt_orphans()
    try:
        code = subprocess.call(command)
    finally:
        kill_descendants()
    sys.exit(code if code >= 0 else 128 - code)


def _end(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + number)


if __name__ == "__main__":
    main(sys.argv[1:])
