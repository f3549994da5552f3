"""Places of each test's own, and planted plugins: third-party methods that exist for one test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pace
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
        timeout=pace.seconds(120),
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        **options,
    )


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """Wait until a condition holds, and fail with words when it never does."""
    deadline = time.monotonic() + pace.seconds(seconds)
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    pytest.fail(f"{what} within {seconds:g} s of a quiet machine")


def as_postgres(program: str, *arguments: str) -> None:
    """Run one of the server's programs; as root it must be run by the user that Debian's package makes."""
    who = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    subprocess.run([*who, program, *arguments], check=True, capture_output=True, timeout=pace.seconds(60))


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a real PostgreSQL server of this test run's own; skips where Debian's package is missing."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        pytest.skip("no PostgreSQL server is installed (Debian's package is `postgresql`)")
    pytest.importorskip("psycopg")
    place = Path(tempfile.mkdtemp(prefix="longatlas-pg-"))
    folder, control = place / "data", str(programs[-1].with_name("pg_ctl"))
    try:
        if os.getuid() == 0:
            shutil.chown(place, "postgres")
        as_postgres(str(programs[-1]), "-D", str(folder), "-U", "postgres", "--auth=trust", "--no-sync")
        options = f"-c listen_addresses= -c unix_socket_directories={place} -c fsync=off"
        as_postgres(control, "-D", str(folder), "-w", "-l", str(place / "log"), "-o", options, "start")
        yield f"postgresql://postgres@/postgres?host={place}"
        as_postgres(control, "-D", str(folder), "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def postgres_store(postgres: str) -> str:
    """The URL of an empty database on the server."""
    import psycopg

    name = f"store_{time.monotonic_ns()}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return postgres.replace("/postgres?", f"/{name}?")


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
