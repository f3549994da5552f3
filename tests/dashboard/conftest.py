"""Stores with made rows: growth by each method's claimed exponent, and cells of every failed status."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from longatlas import catalog
from longatlas.combination import parse_spec
from longatlas.harness import jobs
from longatlas.harness.cells import Cell, expand
from longatlas.harness.plan import Plan
from longatlas.store import Store

METHODS = ("vanilla", "flash_attention", "sliding_window", "infini_attention", "transformer_xl", "alibi")
FAILURES = {
    ("vanilla", "train", 4096): ("oom", "needs 3.1 GiB, more than the 2.0 GiB allowed"),
    ("transformer_xl", "prefill", 2048): ("timeout", "took longer than 600 s"),
    ("transformer_xl", "prefill", 4096): ("skipped", "T = 2048 ran out of time"),
    ("alibi", "decode", 1024): ("incorrect", "differs from its reference by 0.2"),
}


@pytest.fixture(autouse=True)
def own_slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No page waits for a real run's device."""
    monkeypatch.setenv("LONGATLAS_SLOTS", str(tmp_path / "slots"))


def sample_plan(**changes: Any) -> Plan:
    """A plan as the demo's."""
    tasks = tuple(task for task in ("language_model", "mqar", "passkey") if task in catalog.load_catalog().tasks)
    return Plan(**{"methods": METHODS, "tasks": tasks, "preset": "demo", **changes})


def fill(store: Store, plan: Plan) -> None:
    """Save made rows for every cell of a plan."""
    for cell in expand(plan):
        failure = FAILURES.get((cell.method, cell.phase, cell.T))
        if failure and cell.measure == "speed":
            rows: list[dict[str, Any]] = [{"status": failure[0], "reason": failure[1]}]
        else:
            rows = {"speed": _speed, "memory": _memory, "quality": _quality}[cell.measure](cell)
        store.save(cell.record(rows, seconds=1.0))


def _near(*parts: object) -> float:
    """A number near 1 that is always the same for the same cell."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return 0.9 + digest[0] / 1275


def _row(metric: str, value: float, unit: str, **more: Any) -> dict[str, Any]:
    return {"metric": metric, "value": value, "unit": unit, "n": 12, **more}


def _speed(cell: Cell) -> list[dict[str, Any]]:
    power = parse_spec(cell.method).parts[0].method.cost.time_exponent
    power = power - 1 if cell.phase == "decode" else power
    scale = {"train": 12.0, "prefill": 4.0, "decode": 0.6}[cell.phase] * _near(cell.method)
    value = scale * (cell.T / 512) ** power * _near(cell.method, cell.phase, cell.T)
    timed = _row(f"{cell.phase}_ms", value, "ms", low=value * 0.95, high=value * 1.06)
    return [timed, _row("tokens_per_s", cell.T / value * 1000, "tokens/s")]


def _memory(cell: Cell) -> list[dict[str, Any]]:
    rows = [_row("peak_bytes", 2e6 * (cell.T / 512) * _near(cell.method, cell.phase), "bytes")]
    if cell.phase == "prefill":
        linear = parse_spec(cell.method).parts[0].method.cost.state_growth == "linear"
        rows.append(_row("state_bytes", (cell.T if linear else 512) * 1024.0, "bytes"))
    return rows


def _quality(cell: Cell) -> list[dict[str, Any]]:
    if cell.phase == "passkey":
        return [
            _row(metric, value, "", T=length)
            for length, value in ((128, 1.0), (256, 0.75), (512, 0.25))
            for metric in ("accuracy", *(f"accuracy_depth_{depth}" for depth in range(10)))
        ]
    if cell.phase != "language_model":
        return [_row("accuracy", 0.8 * _near(cell.method), "", T=64)]
    start = 2.1 * _near(cell.method)
    return [
        _row("bits_per_byte", start - 0.08 * i, "bits", T=256 << i, low=start - 0.1 * i, high=start - 0.05 * i)
        for i in range(4)
    ]


@pytest.fixture(scope="session")
def filled_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "filled.sqlite"
    fill(Store(str(path)), sample_plan())
    return path


@pytest.fixture
def filled(filled_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store with rows, named by the environment as the launcher does."""
    monkeypatch.setenv("LONGATLAS_STORE", str(filled_path))
    return Store(str(filled_path))


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store without rows."""
    path = tmp_path / "empty.sqlite"
    monkeypatch.setenv("LONGATLAS_STORE", str(path))
    return Store(str(path))


@pytest.fixture
def repeated(empty: Store) -> Store:
    """Two methods at two T with two seeds, and at the shorter one by `reference` too."""
    plan = Plan(methods=("vanilla", "alibi"), measure=("speed",), phases=("prefill",), lengths=(512, 1024))
    for changes in ({}, {"seed": 1}, {"impl": "reference", "lengths": (512,)}):
        fill(empty, plan.with_values(changes))
    return empty


@pytest.fixture(autouse=True)
def _nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that a page queues are looked at, not run."""
    monkeypatch.setattr(jobs, "wake_supervisor", lambda store: None)
