"""The worker process: says it is ready, reads cells from standard input, one JSON object per line, answers with rows.

The parent may kill it at any time; it dies with its parent.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import resource
import signal
import sys
import traceback
from typing import Any, TextIO


def main() -> None:
    """Serve cells until standard input ends."""
    answers = _private_stdout()
    _die_with_parent()
    faulthandler.enable()
    from longatlas.measure import run_cell  # noqa: F401 - loading torch is no part of the first cell

    _limit_memory(float(os.environ.get("LONGATLAS_WORKER_MEMORY_GIB", "0")))
    _answer(answers, {"ready": True})
    for line in sys.stdin:
        _answer(answers, {"rows": _measure(json.loads(line))})


def _answer(answers: TextIO, value: dict[str, Any]) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


def _measure(request: dict[str, Any]) -> list[dict[str, Any]]:
    from longatlas.measure.run_cell import failure, run_cell

    try:
        return run_cell(request["cell"], request["cache"])
    except MemoryError:
        return [failure("oom", "the worker's memory limit was reached")]
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        return [failure("crash", " ".join(traceback.format_exception_only(error)[-1].split()))]


def _private_stdout() -> TextIO:
    """Keep the answers apart from whatever a method prints, which goes to the log."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _die_with_parent() -> None:
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)


def _limit_memory(gib: float) -> None:
    """Let allocations beyond the limit fail in this process, instead of the system choosing a victim."""
    if gib > 0 and sys.platform == "linux":
        limit = int(gib * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


if __name__ == "__main__":
    main()
