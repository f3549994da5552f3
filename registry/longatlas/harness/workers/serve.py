"""A worker: reads requests from its socket, one JSON object per line, and answers each; it may be killed at any time.

A request is the call of a method of longatlas.measure.bench.Bench. An answer has the request's id, `rows` where the
cell is finished, and `work`: seconds in the measured code.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import socket
import sys
import traceback
from typing import Any

import psutil

Answer = dict[str, Any]


def main(descriptor: int, memory_gib: float) -> None:
    """Serve requests until the socket closes."""
    from longatlas.harness.workers.limits import limit
    from longatlas.measure.bench import Bench
    from longatlas.processes import end_with_parent

    os.setpgid(0, 0)
    end_with_parent(signal.SIGKILL)
    faulthandler.enable()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr] # last words must not die with the process
    limit(memory_gib)
    bench, own = Bench(), os.getpid()
    with socket.socket(fileno=descriptor) as channel, channel.makefile("rb") as lines:
        for line in lines:
            request = json.loads(line)
            answer = _answer(bench, request)
            if os.getpid() != own:  # the method forked, and this is the copy
                _send(channel, {"id": request["id"], "forked": os.getpid()})
                os._exit(0)
            _send(channel, {**answer, "id": request["id"], "children": len(psutil.Process().children())})


def _send(channel: socket.socket, answer: Answer) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    channel.sendall(json.dumps(answer).encode() + b"\n")


def _answer(bench: Any, request: dict[str, Any]) -> Answer:
    from longatlas.measure.rows import failure

    try:
        answer: Answer = getattr(bench, request["do"])(**request.get("with", {}))
        json.dumps(answer)
        return answer
    except MemoryError:
        return {"rows": [failure("oom", "the worker's memory limit was reached")]}
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        traceback.print_exc()
        return {"rows": [failure("crash", " ".join(traceback.format_exception_only(error)[-1].split()))]}


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
