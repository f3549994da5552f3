"""Ranks: what they return comes back, whatever goes wrong names its rank, and no process is left."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pace
import psutil
import pytest
import ranked
import torch

from longatlas import LongAtlasError, UnsupportedError, parallel

LONG = 300.0  # seconds; nothing here takes so long


@pytest.fixture(scope="module")
def launcher() -> Iterator[parallel.Launcher]:
    with parallel.Launcher() as launcher:
        yield launcher


def test_ranks_return_what_they_computed_together(launcher: parallel.Launcher) -> None:
    (first, total, threads), (second, _, _) = launcher.run(2, ranked.who, "I am", timeout=LONG)
    assert (first, second) == ("I am 0 of 2 (0, 2)", "I am 1 of 2 (1, 2)")
    assert torch.equal(total, torch.tensor([3.0]))
    assert not total.requires_grad
    assert threads == 1
    assert [text for text, _, _ in launcher.run(3, ranked.who, "I", timeout=LONG)][2] == "I 2 of 3 (2, 3)"


def test_one_rank_is_a_plain_call() -> None:
    assert parallel.run(1, ranked.plain) == [(0, 1, (0, 1))]
    assert parallel.run(1, lambda rank, n: rank + n) == [1], "nothing is pickled"


FAILURES = {
    "raises": "rank 1 of 2 raised ValueError: it broke",
    "exits": "rank 1 of 2 ended with exit code 3 before it was done",
    "leaves": "rank 1 of 2 ended with exit code 0 before it was done",
    "killed": "rank 1 of 2 was ended by SIGKILL",
    "aborts": "rank 1 of 2 was ended by SIGABRT",
}


@pytest.mark.parametrize("how", FAILURES)
def test_a_rank_that_fails_costs_the_call_and_is_named(launcher: parallel.Launcher, how: str) -> None:
    with pytest.raises(parallel.RankError) as error:
        launcher.run(2, ranked.fails, how, timeout=LONG)
    assert str(error.value) == FAILURES[how]
    assert error.value.status == "crash"
    if how in ("raises", "aborts"):
        assert "ranked.py" in str(error.value.__cause__), "the rank's own traceback"


def test_ranks_that_hang_are_named_with_the_place(launcher: parallel.Launcher) -> None:
    limit = pace.seconds(2)
    with pytest.raises(parallel.RankError, match=f"^ranks 0, 1 of 2 not done after {limit:g} s$") as error:
        launcher.run(2, ranked.fails, "hangs", timeout=limit)
    assert error.value.status == "timeout"
    assert "in <lambda>" in str(error.value.__cause__).partition("rank 1:")[2], "where rank 1 sleeps"
    assert "barrier" in str(error.value.__cause__).partition("rank 1:")[0], "where rank 0 waits"


def test_what_a_rank_refuses_is_refused_here(launcher: parallel.Launcher) -> None:
    with pytest.raises(UnsupportedError, match=r"^heads is 3; it must be divisible by the ranks, 2$"):
        launcher.run(2, ranked.fails, "refuses", timeout=LONG)
    with pytest.raises(LongAtlasError, match=r"^window is -1; it must be at least 1$"):
        launcher.run(2, ranked.fails, "is_bad_input", timeout=LONG)


def test_what_ranks_leave_behind_ends_with_the_call(launcher: parallel.Launcher) -> None:
    left = launcher.run(2, ranked.leaves_a_process, timeout=LONG)
    assert not any(psutil.pid_exists(pid) for pid in left)
    assert launcher.run(2, ranked.forks, timeout=LONG) == [0, 1], "a copy of a rank says nothing"


def test_bad_input_is_refused() -> None:
    with parallel.Launcher() as unused:
        for n in (0, -1, 2.0, True):
            with pytest.raises(LongAtlasError, match=r"ranks is .*; it must be a whole number of at least 1"):
                unused.run(n, ranked.plain)  # type: ignore[arg-type]
        for timeout in (0.0, -1.0, float("nan")):
            with pytest.raises(LongAtlasError, match="it must be a positive number of seconds"):
                unused.run(2, ranked.plain, timeout=timeout)
        for function, arguments in ((lambda rank, n: 1, ()), (ranked.plain, (lambda: 1,))):
            with pytest.raises(LongAtlasError, match="must stand at the top level of a module"):
                unused.run(2, function, *arguments)
        with pytest.raises(LongAtlasError, match="device is 'tpu'; ranks run on cpu or cuda"):
            unused.run(2, ranked.plain, device="tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_more_ranks_than_gpus_are_refused(launcher: parallel.Launcher) -> None:
    with pytest.raises(UnsupportedError, match="ranks is 2; each needs a GPU of its own, and torch finds 0 here"):
        launcher.run(2, ranked.plain, device="cuda")


@pytest.mark.skipif(sys.platform != "linux", reason="only there the kernel tells a process of its parent's end")
def test_ranks_end_with_a_caller_that_is_killed(tmp_path: Path, wait: Callable[..., Any]) -> None:
    call = f"import ranked; from longatlas import parallel; parallel.run(2, ranked.sleeps, {str(tmp_path)!r})"
    caller = subprocess.Popen([sys.executable, "-c", f"import sys; sys.path = {sys.path!r}; {call}"])
    wait(lambda: {path.name for path in tmp_path.iterdir()} == {"0", "1"}, "both ranks are at work")
    children = psutil.Process(caller.pid).children(recursive=True)
    assert len(children) == 3, "the launcher and two ranks"
    caller.kill()
    caller.wait()
    wait(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in children), "all are gone")
