"""A worker: reads requests from its channel, one JSON object per line, and answers each; it may be killed at any time.

A request names a function of longatlas.measure.requests. An answer has its id and what the function returned: `rows`
where a cell is finished or the request failed, and `work`, seconds in the measured code; with it, for a cell, comes
`who`, what measured. Lines with `told`, what the function tells on its way, may come before it.
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


def main(descriptor: int, memory_gib: float) -> None:
    """Serve requests until the channel closes."""
    from longatlas.identity import facts
    from longatlas.measure.requests import functions
    from longatlas.processes import end_with_parent, limit_resources

    os.setpgid(0, 0)
    end_with_parent(signal.SIGKILL)
    faulthandler.enable()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr] # last words must not die with the process
    limit_resources(memory_gib)
    with socket.socket(fileno=descriptor) as channel, channel.makefile("rb") as lines:
        speaker = Speaker(channel)
        known = functions(lambda value: speaker.say({"told": value}))
        for line in lines:
            request = json.loads(line)
            speaker.request = request["id"]
            answer = _answer(known[request["do"]], request["with"])
            if "cell" in request["with"]:
                answer["who"] = facts(request["with"]["cell"]["device"])
            speaker.say({**answer, "children": len(psutil.Process().children())})


class Speaker:
    """Sends messages. A copy of this process, which the method has forked, says that it is one and ends."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel, self._own = channel, os.getpid()
        self.request = 0

    def say(self, message: dict[str, Any]) -> None:
        is_copy = os.getpid() != self._own
        if is_copy:
            message = {"forked": os.getpid()}
        sys.stdout.flush()
        sys.stderr.flush()
        self._channel.sendall(json.dumps({**message, "id": self.request}).encode() + b"\n")
        if is_copy:
            os._exit(0)


def _answer(function: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """What a function returns; of what it raises a row with a status and the reason."""
    from longatlas.measure.rows import failure_of

    try:
        answer: dict[str, Any] = function(**arguments)
        json.dumps(answer)
        return answer
    except BaseException as error:
        row = failure_of(error)
        if row["status"] == "crash":
            traceback.print_exc()
        return {"rows": [row]}


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
