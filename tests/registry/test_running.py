"""Runs: every status a cell can end in costs that cell only, and a run goes on where the last one ended."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from longatlas.errors import LongAtlasError
from longatlas.harness import running
from longatlas.harness.cells import expand
from longatlas.harness.estimating import Predictor
from longatlas.harness.plan import Plan
from longatlas.harness.progress import Progress
from longatlas.harness.running import hosts_path, run
from longatlas.store import Store

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory limits of a process need Linux")

CASE: dict[str, Any] = {
    "measure": ("speed",),
    "phases": ("prefill",),
    "lengths": (8,),
    "layers": 1,
    "heads": 2,
    "head_size": 8,
    "budget": 0.01,
    "threads": 1,
    "timeout": 600,
}


class Told(list[Progress]):
    """What a run told."""

    def finished(self, *, kept: bool) -> list[str]:
        return [f"{p.cell.label} {p.status}" for p in self if p.status and p.kept == kept]


def measure(plan: Plan, store: Store, **options: Any) -> tuple[pd.DataFrame, Told]:
    told = Told()
    return run(plan, store=store, progress=told.append, **options), told


def statuses(frame: pd.DataFrame) -> dict[str, str]:
    return dict(zip(frame["method"], frame["status"], strict=True))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store.sqlite"))


AT_WORK = "import torch\nif config.train_length == 8:\n    "  # when a decoder is built for the measured length


def test_more_time_is_another_chance(planted: Callable[..., str], store: Store) -> None:
    slow = planted("slow", AT_WORK + "time.sleep(3)")
    plan = Plan(methods=(slow,), **{**CASE, "lengths": (8, 16), "timeout": 1})
    frame, _ = measure(plan, store)
    assert list(frame["status"]) == ["timeout", "skipped"]
    frame, told = measure(plan.with_values({"timeout": 60.0}), store)
    assert set(frame["status"]) == {"ok"}
    assert len(told.finished(kept=False)) == 2


def test_a_length_that_cannot_fit_ends_its_series_only(store: Store) -> None:
    plan = Plan(
        methods=("vanilla", "flash_attention"),
        **{**CASE, "measure": ("memory",), "lengths": (8, 16384, 32768), "memory_gib": 1.5},
    )
    frame, _ = measure(plan, store)
    found = {(r.method, r.T): r.status for r in frame.itertuples()}
    assert [found["vanilla", T] for T in plan.lengths] == ["ok", "oom", "skipped"]
    assert found["flash_attention", 8] == found["flash_attention", 16384] == "ok"


def test_a_skipped_cell_is_measured_when_asked_for_alone(planted: Callable[..., str], store: Store) -> None:
    name = planted("short_is_bad", AT_WORK + "torch.empty(2**40)")
    plan = Plan(methods=(name,), **{**CASE, "lengths": (8, 16)})
    frame, _ = measure(plan, store)
    assert list(frame["status"]) == ["oom", "skipped"]
    frame, _ = measure(plan.with_values({"lengths": (16,)}), store)
    assert set(frame["status"]) == {"ok"}


def test_context_methods_are_not_trained(store: Store) -> None:
    plan = Plan(methods=("passage_selection",), **{**CASE, "phases": ("train", "prefill")})
    frame, _ = measure(plan, store)
    train = frame[frame["phase"] == "train"].iloc[0]
    assert (train["status"], train["reason"]) == (
        "unsupported",
        "'passage_selection' puts its context around a trained decoder; it is not trained itself, which would take a "
        "Context(trains=True)",
    )
    assert set(frame[frame["phase"] == "prefill"]["status"]) == {"ok"}


TASK = """
from longatlas import Task, hookimpl
@hookimpl
def register_tasks(register):
    register(Task(name="{name}", title="t", summary="s", run=lambda session: {result}, presets={{"smoke": {{}}}}))
"""


def test_a_task_that_returns_anything_costs_its_own_cell(planted: Callable[..., str], store: Store) -> None:
    results = {
        "empty_task": ("[]", "must return a list of at least one metric"),
        "odd_task": ('[{"metric": "m", "valeu": 1}]', "a metric has the key 'valeu'"),
        "object_task": ('[{"metric": "m", "value": object()}]', "not JSON serializable"),
        "good_task": ('[{"metric": "m", "unit": "", "value": 1.0}]', ""),
    }
    for name, (result, _) in results.items():
        planted(name, source=TASK.format(name=name, result=result))
    plan = Plan(methods=("vanilla",), measure=("quality",), tasks=tuple(results), preset="smoke", threads=1)
    frame, _ = measure(plan, store)
    assert list(frame["phase"]) == list(results)
    assert list(frame["status"]) == ["crash", "crash", "crash", "ok"]
    for reason, (_, told) in zip(frame["reason"], results.values(), strict=True):
        assert told in reason


def test_nothing_is_measured_twice(store: Store) -> None:
    plan = Plan(methods=("vanilla", "sliding_window"), **CASE)
    first, told = measure(plan, store)
    assert len(told.finished(kept=False)) == 2
    assert [p.status for p in told] == ["", "", "ok", "ok"]
    assert (told[-1].done, told[-1].total) == (2, 2)
    second, told = measure(plan, store)
    assert len(told.finished(kept=True)) == 2
    assert not told.finished(kept=False)
    pd.testing.assert_frame_equal(first, second)
    _, told = measure(plan.with_values({"lengths": (8, 16)}), store)
    # Which of the two is done first is drawn from the cell's key, so from the engine's source.
    assert set(told.finished(kept=False)) == {"vanilla prefill T=16 ok", "sliding_window prefill T=16 ok"}
    _, told = measure(plan.with_values({"methods": ("vanilla", "sliding_window:window=4")}), store)
    assert told.finished(kept=False) == ["sliding_window:window=4 prefill T=8 ok"]
    third, told = measure(plan, store, force=True)
    assert len(told.finished(kept=False)) == 2
    assert len(third) == len(first)
    assert third["id"].min() > first["id"].max()


def test_a_changed_source_is_measured_again_and_no_other(
    planted: Callable[..., str], store: Store, tmp_path: Path
) -> None:
    plan = Plan(methods=(planted("one"), planted("two")), **CASE)
    measure(plan, store)
    file = tmp_path / "planted/one.py"
    file.write_text(file.read_text() + "CHANGED = 1\n")
    _, told = measure(plan, store)
    assert told.finished(kept=False) == ["one prefill T=8 ok"]
    assert told.finished(kept=True) == ["two prefill T=8 ok"]


def test_run_takes_a_mapping_and_a_file(tmp_path: Path, store: Store) -> None:
    plan = Plan(methods=("vanilla",), **CASE)
    (tmp_path / "plan.yaml").write_text(plan.to_yaml())
    first = run(tmp_path / "plan.yaml", store=store.name)
    second = run(plan.as_dict(), store=store)
    pd.testing.assert_frame_equal(first, second)
    assert hosts_path(store) == tmp_path / "store.hosts"


def test_a_gpu_that_is_not_there_is_bad_input(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "has_cuda", lambda: False)
    with pytest.raises(LongAtlasError, match="device is 'cuda', but no NVIDIA GPU was found here"):
        run({"methods": ["vanilla"], "device": "cuda"}, store=store)
    assert store.rows().empty


def test_the_time_left_is_told_from_the_start_and_leaves_out_what_is_kept(store: Store) -> None:
    plan = Plan(methods=("vanilla",), **{**CASE, "measure": ("memory",)})
    cells = expand(plan)
    predictor = Predictor.of(store, plan, cells)
    _, told = measure(plan, store)
    assert told[0].left == sum(map(predictor.seconds, cells)) > 0
    plan = plan.with_values({"lengths": (8, 16)})
    kept, missing = expand(plan)
    predictor = Predictor.of(store, plan, [kept, missing])
    _, told = measure(plan, store)
    assert (told[0].kept, told[0].left) == (True, predictor.seconds(missing))
