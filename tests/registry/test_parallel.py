"""Ranks: what they return comes back, whatever goes wrong names its rank, and no process is left."""

from __future__ import annotations

import os
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

import longatlas
from longatlas import LongAtlasError, UnsupportedError, parallel
from longatlas.combination import as_combination
from longatlas.harness.plan import Plan
from longatlas.harness.running import run
from longatlas.store import Store
from longatlas.testing import checks, runner, verify_method
from longatlas.testing.case import make_case
from longatlas.testing.ranks import compare_ranks

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


@pytest.mark.parametrize(("method", "n"), [(ranked.RING, 3), (ranked.SPLIT, 2)])
def test_ranks_equal_one(launcher: parallel.Launcher, method: longatlas.Method, n: int) -> None:
    """Sharded by sequence, by heads and by weights (DTensor): outputs, state, every gradient."""
    compare_ranks(make_case(as_combination(method)), n, "auto", launcher)


@pytest.mark.parametrize(
    ("method", "what"), [(ranked.OWN_GRADIENTS, "the gradient of"), (ranked.WRONG_WAY, "the output")]
)
def test_a_planted_fault_between_ranks_is_found(
    launcher: parallel.Launcher, method: longatlas.Method, what: str
) -> None:
    with pytest.raises(AssertionError, match=rf"rank . of 2 at T = 63 beside one rank: {what} .*differs"):
        compare_ranks(make_case(as_combination(method)), 2, "auto", launcher)


def test_the_kit_starts_ranks_where_a_card_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "CHECKS", (checks.ranks_equal_one,))
    monkeypatch.setattr(checks, "RANKS", (2,))
    assert [result.status for result in verify_method("vanilla").results] == ["skipped"]
    assert [result.status for result in verify_method(ranked.RING).results] == ["passed"]
    (failure,) = verify_method(ranked.WRONG_WAY).failures
    assert (failure.check, "differs" in failure.detail) == ("ranks_equal_one", True)


# The tests' folder is on the path of this process alone, and workers must import the method.
PLUGIN = """
import sys
sys.path.insert(0, {folder!r})
from longatlas import hookimpl

@hookimpl
def register_methods(register):
    from ranked import {card}
    register({card})
"""
CASE: dict[str, Any] = {
    "phases": ("prefill",),
    "lengths": (8,),
    "layers": 1,
    "heads": 2,
    "head_size": 8,
    "budget": 0.02,
    "threads": 2,
}


def plant(planted: Callable[..., str], card: str, name: str) -> str:
    return planted(name, source=PLUGIN.format(folder=str(Path(ranked.__file__).parent), card=card))


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two ranks take two cores")
def test_a_run_measures_ranks(planted: Callable[..., str], tmp_path: Path) -> None:
    ring = plant(planted, "RING", "ring_linear")
    store = Store(str(tmp_path / "store.sqlite"))
    plan = Plan(methods=(ring, "vanilla"), measure=("speed", "memory"), ranks=(1, 2, 1024), **CASE)
    frame = run(plan, store=store)
    frame["ranks"] = [case.get("ranks", 1) for case in frame["case"]]
    own = frame[(frame["method"] == ring) & (frame["ranks"] < 1024)]
    assert set(own["status"]) == {"ok"}, own[["ranks", "status", "reason"]].to_string()
    values = {(row.metric, row.ranks): row.value for row in own.itertuples()}
    assert values["prefill_ms", 1] > 0
    assert values["prefill_ms", 2] > 0
    assert values["rms_error", 2] < 1e-4
    assert values["weight_bytes", 2] == values["weight_bytes", 1], "its weights are whole"
    state, own_part = 2 * 8 * 8, 4 * 16
    assert values["collective_elements", 2] == 2 * state + own_part, "once round the ring, a sum, and a gathering"
    assert ("collective_elements", 1) not in values
    refused = frame[frame["status"] != "ok"].drop_duplicates(["method", "ranks"]).set_index(["method", "ranks"])
    assert set(refused["status"]) == {"unsupported"}
    cores = f"ranks is 1024; each takes one of this machine's CPU cores, and it has {os.cpu_count()}"
    assert refused.loc[(ring, 1024), "reason"] == cores
    for n in (2, 1024):
        text = f"ranks is {n}, and it computes in one process: its card does not say ranks=True"
        assert refused.loc[("vanilla", n), "reason"] == text
    assert len(refused) == 3


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two ranks take two cores")
def test_a_rank_that_dies_costs_its_cell(planted: Callable[..., str], tmp_path: Path) -> None:
    dying = plant(planted, "DYING", "dying")
    store = Store(str(tmp_path / "store.sqlite"))
    frame = run(Plan(methods=(dying, "vanilla"), measure=("memory",), ranks=(1, 2), **CASE), store=store)
    (crashed,) = frame[frame["status"] == "crash"].itertuples()
    assert (crashed.method, crashed.case["ranks"]) == (dying, 2)
    assert "rank 1 of 2 was ended by SIGKILL" in crashed.reason
    assert set(frame[[case.get("ranks", 1) == 1 for case in frame["case"]]]["status"]) == {"ok"}
    left = [p for p in psutil.process_iter(["cmdline"]) if "longatlas.parallel.ranks" in (p.info["cmdline"] or [])]
    assert not [p for p in left if str(tmp_path) in p.environ().get("PYTHONPATH", "")]


def test_a_plan_without_ranks_is_what_it_was() -> None:
    plan = Plan(methods=("vanilla",))
    assert plan.ranks == (1,)
    assert plan.with_values({"ranks": [2]}).hash != plan.hash == plan.with_values({"ranks": [1, 1]}).hash
    with pytest.raises(LongAtlasError, match="plan: ranks has 0; expected a whole number of at least 1"):
        plan.with_values({"ranks": [0]})
    with pytest.raises(LongAtlasError, match="plan: ranks is empty; give some, such as 1"):
        plan.with_values({"ranks": []})
