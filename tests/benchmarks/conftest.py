"""Options of the comparisons, and a table of the ratios at the end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from longatlas.combination import parse_specs
from longatlas.harness.cells import Cell, expand
from longatlas.harness.demo import METHODS, third_party_methods
from longatlas.harness.executor import Executor
from longatlas.harness.plan import PHASES, Plan

sys.path.insert(0, str(Path(__file__).parent))

from replay import RATIOS


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("longatlas")
    group.addoption("--longatlas-methods", default="", help="comma-separated specs; default: those of the demo")
    group.addoption("--longatlas-lengths", default="512,2048", help="comma-separated T, tokens")
    group.addoption("--longatlas-phases", default=",".join(PHASES), help="some of train,prefill,decode")
    group.addoption("--longatlas-budget", type=float, default=0.5, help="seconds of samples for one timing, at most")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RATIOS] = []


def plan_of(config: pytest.Config) -> Plan:
    """The plan that the options ask for."""
    named = config.getoption("--longatlas-methods")
    methods = [c.spec for c in parse_specs(named)] if named else [*METHODS, *third_party_methods()]
    return Plan(
        methods=tuple(methods),
        measure=("speed",),
        lengths=tuple(int(text) for text in config.getoption("--longatlas-lengths").split(",")),
        phases=tuple(config.getoption("--longatlas-phases").split(",")),
        budget=config.getoption("--longatlas-budget"),
        layers=1,
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "cell" in metafunc.fixturenames:
        cells = expand(plan_of(metafunc.config))
        metafunc.parametrize("cell", cells, ids=[f"{c.method}-T{c.T}-{c.phase}" for c in cells])


@pytest.fixture(scope="session")
def executor(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("longatlas")
    with Executor(folder / "hosts", folder / "workers.log") as executor:
        yield executor


@pytest.fixture
def samples(cell: Cell, executor: Executor) -> list[float]:
    """Seconds of each repetition of a cell, from its worker; a cell without a time skips or fails with its reason."""
    row = executor.measure(cell, 600, lambda: False)[0]
    status = row.get("status", "ok")
    if status in ("unsupported", "oom", "timeout"):
        pytest.skip(f"{status}: {row['reason']}")
    if status != "ok":
        pytest.fail(f"{status}: {row['reason']}")
    return [milliseconds / 1000 for milliseconds in row["samples"]]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    ratios = config.stash[RATIOS]
    if ratios:
        terminalreporter.section("ratios in one process")
        for name, ratio, target in ratios:
            mark = "reached" if ratio >= target else "MISSED"
            terminalreporter.write_line(f"{name:<62} {ratio:6.2f}x   target {target:g}x   {mark}")
