"""Planted faults: each turns a test of its kernels red, so that those tests would find it. `make nightly` runs them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.nightly
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PLUGINS = ROOT / "plugins" / "longatlas_plugins"
FAULTS: dict[str, list[dict[str, Any]]] = yaml.safe_load((HERE / "mutations.yaml").read_text())


def run(method: str, tests: str, plugins: Path) -> subprocess.CompletedProcess[str]:
    """pytest on some of a method's tests, with plugins from elsewhere."""
    path = os.pathsep.join([str(plugins), str(ROOT / "registry")])
    environment = {**os.environ, "PYTHONPATH": path, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", str(HERE / f"test_{method}.py"), "-k", tests, "-x", "-q"]
    options = ["-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", str(ROOT)]
    return subprocess.run(
        [*command, *options], env=environment, capture_output=True, text=True, cwd=plugins, check=False
    )


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A folder with a copy of the built-in plugins."""
    shutil.copytree(PLUGINS, tmp_path / PLUGINS.name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.mark.parametrize(
    ("method", "fault"),
    [
        pytest.param(method, fault, id=f"{method}: {fault['fault']}")
        for method, faults in FAULTS.items()
        for fault in faults
    ],
)
def test_a_fault_is_found(copied: Path, method: str, fault: dict[str, Any]) -> None:
    (folder,) = copied.glob(f"{PLUGINS.name}/*/{method}")
    source = folder / fault["file"]
    text = source.read_text()
    for old, new in {fault["old"]: fault["new"], **fault.get("also", {})}.items():
        assert old in text, f"{fault['file']} no longer has what the fault replaces: {old}"
        text = text.replace(old, new)
    source.write_text(text)
    found = run(method, fault["tests"], copied)
    if fault.get("crashes") and found.returncode < 0:
        return
    assert found.returncode == 1, f"tests '{fault['tests']}' ended with {found.returncode}:\n{found.stdout[-3000:]}"
    # A fault that does not compile would prove nothing.
    assert "AssertionError" in found.stdout or "assert " in found.stdout, found.stdout[-3000:]


@pytest.mark.parametrize("method", FAULTS)
def test_without_a_fault_the_same_tests_pass(copied: Path, method: str) -> None:
    tests = " or ".join(sorted({f"({fault['tests']})" for fault in FAULTS[method]}))
    found = run(method, tests, copied)
    assert found.returncode == 0, found.stdout[-3000:]
