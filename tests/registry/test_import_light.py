"""A fresh interpreter with the heavy imports blocked: the registry and `list` do not need them."""

import ast
import subprocess
import sys
from pathlib import Path

import pace
import pytest

import longatlas

BLOCK = """
import sys
from pathlib import Path
from importlib.machinery import ModuleSpec
class Wall:
    # The modules can be found, so methods count as ready, but not imported.
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "triton", "pandas", "numpy", "sqlalchemy", "streamlit", "altair"}:
            return ModuleSpec(name, self)
    def create_module(self, spec):
        raise ImportError(f"{spec.name} is blocked in this test")
    def exec_module(self, module): ...
sys.meta_path.insert(0, Wall())
"""
CLI = "from longatlas.__main__ import main\nmain({args})"


def fresh(code):
    return subprocess.run(
        [sys.executable, "-c", BLOCK + code], capture_output=True, text=True, timeout=pace.seconds(60)
    )


def test_the_wall_stands():
    assert "torch is blocked" in fresh("import torch").stderr


@pytest.mark.parametrize(
    "code",
    [
        "import longatlas",
        "from longatlas.catalog import load_catalog\nassert len(load_catalog().methods) >= 17",
        "from longatlas import parse_spec\nparse_spec('yarn+sliding_window')",
        CLI.format(args=["list"]),
        CLI.format(args=["list", "--json"]),
        CLI.format(args=["show", "infini_attention"]),
        CLI.format(args=["taxonomy", "--papers"]),
        CLI.format(args=["plugins"]),
        CLI.format(args=["--help"]),
        CLI.format(args=["--version"]),
    ],
)
def test_light_things_load_nothing_heavy(code):
    done = fresh(code)
    assert done.returncode == 0, done.stderr
    assert "broken:" not in done.stdout


def test_a_missing_torch_is_a_status_not_a_crash():
    done = fresh("sys.modules['torch'] = None\n" + CLI.format(args=["list"]))
    assert done.returncode == 0, done.stderr
    assert "needs torch" in done.stdout
    assert "ready" not in done.stdout


def test_commands_of_the_dashboard_are_a_plugins_and_load_none_of_its_charts():
    done = fresh(CLI.format(args=["demo", "--help"]))
    assert done.returncode == 0, done.stderr
    assert "Port of the dashboard." in done.stdout


def test_the_registry_knows_neither_the_built_in_methods_nor_the_dashboard():
    modules = sorted((Path(longatlas.__file__).parent).rglob("*.py"))
    assert len(modules) > 100
    for module in modules:
        for node in ast.walk(ast.parse(module.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.startswith(("longatlas_plugins", "longatlas_dashboard"))], module
