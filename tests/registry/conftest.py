"""Places of each test's own, and planted plugins: third-party methods that exist for one test."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from longatlas.catalog import load_catalog

FAMILY = "efficient_attention/sparse/fixed_patterns"


@pytest.fixture(autouse=True)
def own_slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for a real run's device, and none touches the user's store."""
    monkeypatch.setenv("LONGATLAS_SLOTS", str(tmp_path / "slots"))
    monkeypatch.setenv("LONGATLAS_STORE", str(tmp_path / "store.sqlite"))


def method_source(name: str, body: str, extra: str = "") -> str:
    """The module of a plugin with one causal attention method; `body` runs when a decoder is built with it."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return f'''"""A planted method."""
import ctypes, os, sys, time
from longatlas import Attention, Method, Option, hookimpl


def build(config, *, impl, size=1):
    import torch
    from longatlas.ops import dense_attention

    def attend(q, k, v, where):
        return dense_attention(q, k, v, q_positions=where.q_positions, k_positions=where.k_positions)

{lines}
    return Attention(forward=attend)


@hookimpl
def register_methods(register):
    register(Method(name="{name}", title="{name}", family="{FAMILY}", summary="Planted.", fills={{"attention": build}},
                    options=(Option("size", 1, "anything", min=1),){extra}))
'''


def plant(folder: Path, name: str, source: str) -> None:
    """Put a module and the metadata of its distribution in a folder, as an installer would."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(source)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[longatlas]\n{name} = {name}\n")


Planter = Callable[..., str]


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Planter]:
    """planted(name, body) installs a method for this process and for all it starts."""
    folder = tmp_path / "planted"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.syspath_prepend(str(folder))
    names: list[str] = []

    def add(name: str, body: str = "", extra: str = "", source: str = "") -> str:
        plant(folder, name, source or method_source(name, body, extra))
        names.append(name)
        load_catalog.cache_clear()
        return name

    yield add
    for name in names:
        sys.modules.pop(name, None)
    load_catalog.cache_clear()


def longatlas(
    *arguments: str, env: Mapping[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, on one thread."""
    return subprocess.run(
        [sys.executable, "-m", "longatlas", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        **options,
    )


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """Wait until a condition holds, and fail with words when it never does."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    pytest.fail(f"{what} within {seconds:g} s")


@pytest.fixture
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    return longatlas


@pytest.fixture
def wait() -> Callable[..., Any]:
    return wait_for


@pytest.fixture
def make_session(tmp_path: Path) -> Callable[..., Any]:
    """make_session(task, spec="vanilla", **settings): a session on a task's smoke preset, with hosts of its own."""

    def make(task: str, spec: str = "vanilla", **settings: Any) -> Any:
        import torch

        from longatlas.combination import parse_spec
        from longatlas.tasks.session import Session

        return Session(
            combination=parse_spec(spec),
            impl="torch",
            device="cpu",
            dtype=torch.float32,
            seed=0,
            settings={**load_catalog().task(task).presets["smoke"], **settings},
            corpus="",
            cache=str(tmp_path / "hosts"),
            task=task,
        )

    return make
