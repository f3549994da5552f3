"""Functions and methods of several ranks, for the tests: ranks import them by name."""

from __future__ import annotations

import os
import signal
import time
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from longatlas import Cost, LongAtlasError, Memory, Method, UnsupportedError, parallel
from longatlas.decoder.defaults import SwiGLU


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


class LinearState(NamedTuple):
    """s [B, H, D, D]: the sum of all k^T v; whole on every rank."""

    s: Tensor


class RingLinear(nn.Module):
    """Linear attention of a sequence that the ranks share: sums of k^T v go round the ring (after LASP, 2404.02882)."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.heads, self.size = config.n_heads, config.head_size
        self.q, self.k, self.v, self.out = (nn.Linear(config.d_model, config.d_model, bias=False) for _ in range(4))
        self.share()

    def share(self) -> None:
        parallel.sum_gradients(self)

    def before(self, own: Tensor) -> Tensor:
        """What the ranks before this one hold together."""
        (rank, size), total = parallel.world(), torch.zeros_like(own)
        for step in range(1, size):
            own = parallel.ring(own)
            total = total + (own if rank >= step else 0 * own)
        return total

    def forward(self, x: Tensor, state: LinearState | None) -> tuple[Tensor, LinearState]:
        length, mine = x.shape[1], parallel.scatter(x, 1)
        q, k, v = (project(mine).unflatten(2, (self.heads, self.size)) for project in (self.q, self.k, self.v))
        kv = torch.einsum("bthd,bthe->bhde", k, v)
        begun = torch.zeros_like(kv) if state is None else state.s
        s = begun + self.before(kv)
        scores = torch.einsum("bthd,bshd->bhts", q, k).tril()
        o = torch.einsum("bhts,bshe->bthe", scores, v) + torch.einsum("bthd,bhde->bthe", q, s)
        y = self.out(0.01 * o.flatten(2))
        return parallel.gather(y, 1, length), LinearState(begun + parallel.reduce(kv))


class OwnGradients(RingLinear):
    def share(self) -> None:
        """A planted fault: each rank has the gradients of its own part alone."""


class WrongWay(RingLinear):
    def before(self, own: Tensor) -> Tensor:
        """A planted fault: what the ranks after this one hold."""
        rank, size = parallel.world()
        total = torch.zeros_like(own)
        for step in range(1, size):
            own = parallel.ring(own)
            total = total + (own if rank < step else 0 * own)
        return total


class Dying(RingLinear):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        if parallel.world() == (1, 2) and config.train_length == 8:
            os.kill(os.getpid(), signal.SIGKILL)


class SplitSwiGLU(SwiGLU):
    """The ffn with its weights sharded by hidden units, after Megatron-LM (1909.08053)."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        _, size = parallel.world()
        if size > 1:
            plan = {"gate": ColwiseParallel(), "up": ColwiseParallel(), "down": RowwiseParallel()}
            parallelize_module(self, init_device_mesh("cpu", (size,)), plan)


class Cached(NamedTuple):
    k: parallel.Shard
    v: parallel.Shard


def split_heads(config: Any) -> Memory:
    """A cache that each rank keeps of its own heads."""

    def extend(k: Tensor, v: Tensor, past: Cached | None, here: Any) -> tuple[Tensor, Tensor, Cached]:
        heads, new = k.shape[2], [parallel.scatter(x, 2) for x in (k, v)]
        if past is not None:
            new = [torch.cat([kept.part, x], 1) for kept, x in zip(past, new, strict=True)]
        k, v = (parallel.gather(x, 2, heads) for x in new)
        return k, v, Cached(*(parallel.Shard(x, 2) for x in new))

    return Memory(extend)


def method(name: str, fills: dict[str, Any], **facts: Any) -> Method:
    about = {"title": name, "family": "misc/objectives", "summary": "Of several ranks.", "ranks": True}
    return Method(name=name, fills=fills, **{**about, **facts})


RING = method("ring_linear", {"mixer": RingLinear}, cost=Cost("T^2", "1"))
SPLIT = method("split_all", {"ffn": SplitSwiGLU, "memory": split_heads})
OWN_GRADIENTS = method("own_gradients", {"mixer": OwnGradients}, cost=Cost("T^2", "1"))
WRONG_WAY = method("wrong_way", {"mixer": WrongWay}, cost=Cost("T^2", "1"))
DYING = method("dying", {"mixer": Dying}, cost=Cost("T^2", "1"))
