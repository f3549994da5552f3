"""Functions and methods of several ranks, for the tests: ranks import them by name."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import torch
from torch import Tensor, distributed

from longatlas import LongAtlasError, UnsupportedError, parallel


def who(rank: int, n: int, word: str) -> tuple[str, Tensor, int]:
    total = torch.tensor([float(rank + 1)])
    distributed.all_reduce(total)
    return f"{word} {rank} of {n} {parallel.world()}", total.requires_grad_(), torch.get_num_threads()


def plain(rank: int, n: int) -> tuple[int, int, tuple[int, int]]:
    return rank, n, parallel.world()


def fails(rank: int, n: int, how: str) -> None:
    """Rank 1 fails; rank 0 waits for it."""
    if rank == 1:
        FAILING[how]()
    distributed.barrier()


def raises() -> None:
    raise ValueError("it broke")


def refuses() -> None:
    raise UnsupportedError("heads is 3; it must be divisible by the ranks, 2")


def is_bad_input() -> None:
    raise LongAtlasError("window is -1; it must be at least 1")


FAILING: dict[str, Any] = {
    "raises": raises,
    "exits": lambda: os._exit(3),
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "aborts": os.abort,
    "leaves": lambda: os._exit(0),
    "hangs": lambda: time.sleep(600),
    "refuses": refuses,
    "is_bad_input": is_bad_input,
}


def leaves_a_process(rank: int, n: int) -> int:
    import subprocess

    return subprocess.Popen(["setsid", "sleep", "600.5"]).pid


def forks(rank: int, n: int) -> int:
    os.fork()
    return rank


def sleeps(rank: int, n: int, folder: str) -> None:
    (open(f"{folder}/{rank}", "w")).close()
    time.sleep(600)
