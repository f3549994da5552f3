"""The process that starts ranks: it loads torch once, and forks the ranks of each call. It runs nobody's code itself.

It hears requests on a Unix socket, one JSON object per line, and answers each with the ranks' exit codes once all have
ended, with all that they have started.
"""

from __future__ import annotations

import faulthandler
import json
import os
import pickle
import select
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from longatlas.errors import LongAtlasError, UnsupportedError
from longatlas.parallel.launcher import BACKENDS, Raised
from longatlas.processes import adopt_orphans, end_with_parent, kill_descendants

POLL_SECONDS = 0.02
GRACE_SECONDS = 1.0  # of the other ranks once one has failed: what they tell says which was the first
STACK_SIGNAL = signal.SIGUSR2

Request = dict[str, Any]


def main(descriptor: int) -> None:
    """Serve until the caller's end of the socket closes."""
    import torch  # noqa: F401 - loaded once for all ranks

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's, who ends this process
    adopt_orphans()
    with socket.socket(fileno=descriptor) as control, suppress(OSError):  # the caller may be gone already
        _tell(control, {"ready": True})
        with control.makefile("rb") as lines:
            for line in lines:
                _tell(control, _run(json.loads(line), control))
    kill_descendants()


def _run(request: Request, control: socket.socket) -> dict[str, Any]:
    refused = _obstacle(request["n"], request["device"])
    if refused:
        return {"refused": refused}
    ranks = [_fork(rank, request) for rank in range(request["n"])]
    codes: dict[int, int] = {}
    late = _await(ranks, codes, request, control)
    kill_descendants()
    _reap(ranks, codes, 0)
    return {"codes": [codes[pid] for pid in ranks], "late": late}


def _obstacle(n: int, device: str) -> str:
    import torch

    if device != "cuda":
        return ""
    gpus = torch.cuda.device_count()
    return "" if n <= gpus else f"ranks is {n}; each needs a GPU of its own, and torch finds {gpus} here"


def _await(ranks: Sequence[int], codes: dict[int, int], request: Request, control: socket.socket) -> list[int]:
    """Wait until all ranks have ended, one has failed or time is up; the ranks that are late then.

    Raises ConnectionError when the caller has gone.
    """
    deadline, folder = time.monotonic() + request["timeout"], Path(request["folder"])
    failed_at = None
    while len(codes) < len(ranks):
        if select.select([control], [], [], POLL_SECONDS)[0]:
            shutil.rmtree(folder, ignore_errors=True)
            raise ConnectionError("the caller has gone")
        _reap(ranks, codes, os.WNOHANG)
        now = time.monotonic()
        if failed_at is None and not all((folder / f"{ranks.index(pid)}.result").exists() for pid in codes):
            failed_at = now
        if failed_at is not None and now > failed_at + GRACE_SECONDS:
            return [rank for rank, pid in enumerate(ranks) if pid not in codes]
        if now > deadline:
            return _interrupt(ranks, codes)
    return []


def _interrupt(ranks: Sequence[int], codes: dict[int, int]) -> list[int]:
    """Let the ranks that are still at work write down where they are."""
    late = [rank for rank, pid in enumerate(ranks) if pid not in codes]
    for rank in late:
        os.kill(ranks[rank], STACK_SIGNAL)
    time.sleep(5 * POLL_SECONDS)
    return late


def _reap(ranks: Sequence[int], codes: dict[int, int], how: int) -> None:
    for pid in ranks:
        if pid not in codes:
            try:
                ended, status = os.waitpid(pid, how)
            except ChildProcessError:  # whoever killed it has taken note of its end
                codes[pid] = -signal.SIGKILL
                continue
            if ended:
                codes[pid] = os.waitstatus_to_exitcode(status)


def _fork(rank: int, request: Request) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            code = _be_rank(rank, request)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    return pid


def _be_rank(rank: int, request: Request) -> int:
    """The exit code: 0 where the function returned."""
    folder, own = Path(request["folder"]), os.getpid()
    end_with_parent(signal.SIGKILL)
    stack = (folder / f"{rank}.stack").open("w")
    faulthandler.enable(stack)
    faulthandler.register(STACK_SIGNAL, stack)
    try:
        result = _result(rank, request)
        if os.getpid() != own:  # the function forked, and this is the copy
            return 0
        (folder / f"{rank}.result").write_bytes(result)
        return 0
    except BaseException as error:
        if os.getpid() == own:
            (folder / f"{rank}.raised").write_text(json.dumps(_told(error)))
        return 1


def _result(rank: int, request: Request) -> bytes:
    import torch
    from torch import distributed

    from longatlas.parallel.shards import returned

    n, device, folder = request["n"], request["device"], Path(request["folder"])
    if device == "cuda":
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(1)
        # All ranks are on this machine, and a name that it has for others may not be resolved.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
    store = distributed.FileStore(str(folder / "store"), n)  # type: ignore[attr-defined]
    limit = timedelta(seconds=2 * request["timeout"] + 60)  # the launcher's comes first, and names who is late
    distributed.init_process_group(BACKENDS[device], store=store, rank=rank, world_size=n, timeout=limit)
    function, arguments = pickle.loads((folder / "call").read_bytes())
    return pickle.dumps(returned(function(rank, n, *arguments)))


def _told(error: BaseException) -> Raised:
    text = " ".join(traceback.format_exception_only(error)[-1].split())
    refusal = str(error) if isinstance(error, LongAtlasError | UnsupportedError) else ""
    unsupported = isinstance(error, UnsupportedError)
    return Raised(text, "".join(traceback.format_exception(error)), time.monotonic(), refusal, unsupported)


def _tell(control: socket.socket, answer: dict[str, Any]) -> None:
    control.sendall(json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
