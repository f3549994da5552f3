"""Estimates of a plan: lower bounds of the peak hold for every method, guesses of time grow with the work."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pace
import pytest

from longatlas import UnsupportedError
from longatlas.catalog import load_catalog
from longatlas.harness import estimating
from longatlas.harness.cells import Cell, expand
from longatlas.harness.estimating import Predictor, estimate, least_peak
from longatlas.harness.plan import Plan
from longatlas.measure import levels
from longatlas.measure.memory import memory_rows
from longatlas.store import Store

BUILT_IN = [m.name for p in load_catalog().plugins if p.distribution == "longatlas" for m in p.methods]
SHAPE: dict[str, Any] = {"layers": 3, "heads": 2, "head_size": 16, "batch": 2}
GIB = 2**30


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store.sqlite"))


@pytest.fixture(autouse=True)
def _small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its memory is 24 GiB, wherever the test runs."""
    monkeypatch.setattr(estimating, "_memory", lambda device: 24.0 * GIB)


def plan_of(method: str = "vanilla", **changes: Any) -> Plan:
    values = {"methods": (method,), "measure": ("memory",), "phases": ("prefill",), "lengths": (512,), "threads": 1}
    return Plan(**{**values, **changes})


def timing(store: Store, cell: Cell, seconds: float, median: float, half: float, n: int) -> None:
    """Save a timing: seconds that the cell took, the median in ms, half its interval in ms, samples."""
    row = {"metric": f"{cell.phase}_ms", "value": median, "low": median - half, "high": median + half, "n": n}
    store.save(cell.record([row], seconds))


def peak(store: Store, cell: Cell, size: float) -> None:
    store.save(cell.record([{"metric": "peak_bytes", "value": size}], 1.0))


@pytest.mark.parametrize("level", ["operation", "layer", "decoder"])
@pytest.mark.parametrize("phase", ["train", "prefill"])
@pytest.mark.parametrize("method", BUILT_IN)
def test_the_bound_is_below_what_is_measured(method: str, phase: str, level: str) -> None:
    (cell,) = expand(plan_of(method, phases=(phase,), levels=(level,), lengths=(600,), dtype="float64", **SHAPE))
    try:
        rows = memory_rows(levels.build(asdict(cell)), phase, cell.T, "cpu")
    except UnsupportedError:
        return
    measured = next(row["value"] for row in rows if row["metric"] == "peak_bytes")
    assert least_peak(cell) <= measured
    if method == "vanilla" and level == "decoder":
        assert least_peak(cell) > measured / 20, "it says something"


@pytest.mark.parametrize("phase", ["train", "prefill", "decode"])
def test_what_cannot_fit_is_refused_without_history(store: Store, phase: str) -> None:
    plan = plan_of(phases=(phase,), lengths=(512, 1 << 24))
    short, long = expand(plan)
    found = estimate(store, plan, [short, long])
    assert found.too_large == (long.label,)
    assert (found.peak_of, found.at_least) == (long.label, True)
    assert found.peak is not None
    assert found.peak > found.limit
    assert estimate(store, plan, [short]).too_large == ()


def test_nothing_is_claimed_of_what_a_context_reads(store: Store) -> None:
    plan = plan_of("passage_selection", phases=("train", "prefill"), lengths=(1 << 24,))
    found = estimate(store, plan, expand(plan))
    assert found.too_large == ()
    train, prefill = expand(plan)
    peak(store, prefill, 1e15)
    assert estimate(store, plan, [train]).peak is None, "it is not trained"


def test_a_known_prefill_is_a_bound_for_training(store: Store) -> None:
    plan = plan_of(phases=("prefill", "train"))
    cells = {cell.phase: cell for cell in expand(plan)}
    peak(store, cells["prefill"], 5.0 * GIB)
    found = estimate(store, plan, [cells["train"]])
    assert (found.peak, found.at_least) == (5.0 * GIB, True)
    peak(store, cells["train"], 1.0 * GIB)
    found = estimate(store, plan, [cells["train"]])
    assert (found.peak, found.at_least) == (1.0 * GIB, False), "what was measured is no bound"


def test_a_guess_grows_with_the_work_and_ends_at_the_timeout(store: Store) -> None:
    plan = plan_of(measure=("speed", "memory"), phases=("train", "prefill", "decode"), lengths=(8, 8192, 1 << 20))
    cells = expand(plan)
    predictor = Predictor.of(store, plan, cells)
    seconds = {(cell.measure, cell.phase, cell.T): predictor.seconds(cell) for cell in cells}
    for measure in ("speed", "memory"):
        for phase in ("train", "prefill", "decode"):
            assert seconds[measure, phase, 8] < seconds[measure, phase, 8192] < seconds[measure, phase, 1 << 20]
        assert seconds[measure, "prefill", 8192] < seconds[measure, "train", 8192]
        assert seconds[measure, "train", 1 << 20] == plan.timeout
    assert seconds["speed", "prefill", 8] == pytest.approx(2.0 + plan.budget, rel=1e-3)
    of_linear = {"methods": ("linear_transformer",), "measure": ("speed",), "phases": ("prefill",), "lengths": (8192,)}
    linear = plan.with_values(of_linear)
    assert estimate(store, linear, expand(linear)).seconds < seconds["speed", "prefill", 8192]


@pytest.mark.parametrize("formula", ["lambda call: 1 / 0", "None"])
def test_a_formula_that_fails_counts_as_none(planted: Any, store: Store, formula: str) -> None:
    plan = plan_of(planted("odd", extra=f", flops={formula}, state_size={formula}"), measure=("speed",))
    vanilla = plan_of(measure=("speed",))
    odd, known = (estimate(store, each, expand(each)) for each in (plan, vanilla))
    assert odd.seconds == pytest.approx(known.seconds), "it claims T^2, so vanilla's stands for it"
    assert odd.peak is not None
    assert known.peak is not None
    assert 0 < odd.peak < known.peak, "nothing is known of its state"


def test_a_timing_takes_as_long_as_its_budget_lets_it(store: Store) -> None:
    plan = plan_of(measure=("speed",), budget=2.0)
    (cell,) = expand(plan)
    timing(store, cell, seconds=2.5, median=20.0, half=2.0, n=100)  # never narrow enough: 2 s of samples, 0.5 s beside
    for budget, seconds in ((2.0, 2.5), (8.0, 8.5), (0.5, 1.0), (0.05, 0.6)):  # five samples at least
        other = plan.with_values({"budget": budget})
        assert estimate(store, other, expand(other)).seconds == pytest.approx(seconds), budget
    timing(store, cell, seconds=1.5, median=20.0, half=0.1, n=50)  # narrow after 1 s
    for budget, seconds in ((2.0, 1.5), (8.0, 1.5), (0.5, 1.0)):
        other = plan.with_values({"budget": budget})
        assert estimate(store, other, expand(other)).seconds == pytest.approx(seconds), budget


def test_a_call_that_is_longer_than_the_budget_counts(store: Store) -> None:
    plan = plan_of(measure=("speed",), lengths=(1024, 2048), budget=1.0)
    for cell in expand(plan):
        timing(store, cell, seconds=1.2, median=10.0 * (cell.T / 1024) ** 2, half=5.0, n=20)
    far = plan.with_values({"lengths": (16384,)})
    assert estimate(store, far, expand(far)).seconds == pytest.approx(7 * 0.01 * 16**2)


def test_an_estimate_does_not_load_torch() -> None:
    code = """
import sys, tempfile
from longatlas.harness.cells import expand
from longatlas.harness.estimating import estimate
from longatlas.harness.plan import Plan
from longatlas.store import Store
plan = Plan(methods=("vanilla", "infini_attention", "passage_selection"))
found = estimate(Store(tempfile.mkdtemp() + "/s.sqlite"), plan, expand(plan))
assert found.peak and found.guessed
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=pace.seconds(60))
    assert done.returncode == 0, done.stderr


def test_a_run_corrects_what_is_expected_of_the_rest(store: Store) -> None:
    plan = plan_of(methods=("vanilla", "alibi"), lengths=(100, 400), phases=("prefill", "decode"), timeout=50.0)
    cells = expand(plan)
    predictor = Predictor.of(store, plan, cells)
    before = {cell.key: predictor.seconds(cell) for cell in cells}
    first = next(cell for cell in cells if cell.phase == "prefill")
    predictor.learn(first, 3 * before[first.key])
    for cell in cells:
        times = 3 if cell.phase == "prefill" else 1
        assert predictor.seconds(cell) == pytest.approx(times * before[cell.key]), "only its kind is as slow"
    predictor.learn(first, 1e6)
    assert predictor.seconds(first) == 50.0, "nothing takes longer than the timeout"


def test_what_was_measured_before_and_what_is_guessed_have_paces_of_their_own(store: Store) -> None:
    plan = plan_of(methods=("vanilla", "alibi"), lengths=(512,))
    vanilla, alibi = expand(plan)
    store.save(vanilla.record([{"metric": "peak_bytes", "value": 1.0}], 10.0))
    predictor = Predictor.of(store, plan, [vanilla, alibi])
    guess = predictor.seconds(alibi)
    assert (predictor.is_known(vanilla), predictor.is_known(alibi)) == (True, False)
    predictor.learn(vanilla, 40.0)
    assert predictor.seconds(vanilla) == pytest.approx(40.0)
    assert predictor.seconds(alibi) == guess


def test_a_trial_counts_before_all_else_and_knows_no_timeout(store: Store) -> None:
    plan = plan_of(measure=("quality",), tasks=("mqar",), timeout=60.0)
    (cell,) = expand(plan)
    predictor = Predictor.of(store, plan, [cell])
    predictor.tell(cell, 7000.0)
    assert (predictor.seconds(cell), predictor.unlimited(cell)) == (60.0, 7000.0)
