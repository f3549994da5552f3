"""What a method is made of: its package, and what that imports of its own distribution."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from longatlas.combination import parse_spec
from longatlas.harness.sources import source_digest, source_files

FILES = {
    "made/__init__.py": "import made.method, made.other",
    "made/method.py": "from made import deep\nfrom .kernels import fast\nimport os, torch_is_not_here.at_all\n"
    "def build(config):\n    from made.late import late\n    from . import missing_module",
    "made/kernels.py": "from .tables import numbers as n",
    "made/tables.py": "import made.method  # a circle",
    "made/late.py": "",
    "made/deep/__init__.py": "from .inner import leaf",
    "made/deep/inner/__init__.py": "",
    "made/deep/inner/leaf.py": "from ...from_leaf import x",
    "made/from_leaf.py": "",
    "made/other.py": "import made.unused",
    "made/unused.py": "",
}


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "made/__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "made", raising=False)
    import_module("made")
    return tmp_path / "made"


def test_a_module_counts_with_what_it_imports_of_its_own_distribution(made: Path) -> None:
    found = {str(path.relative_to(made)) for path in source_files("made.method")}
    expected = {"__init__.py", "method.py", "kernels.py", "tables.py", "late.py", "from_leaf.py"}
    assert found == expected | {"deep/__init__.py", "deep/inner/__init__.py", "deep/inner/leaf.py"}
    assert not {"made.kernels", "made.deep", "made.late"} & sys.modules.keys(), "nothing is imported"


def test_a_file_that_cannot_be_parsed_still_counts(made: Path) -> None:
    (made / "kernels.py").write_text("def broken(")
    assert made / "kernels.py" in source_files("made.method")


def test_every_file_of_a_built_in_method_counts() -> None:
    builder = parse_spec("transformer_xl").builder("mixer")
    assert builder is not None
    assert {"__init__.py", "reference.py", "fast.py"} <= {path.name for path in source_files(builder[0].__module__)}
    shared = parse_spec("yarn").builder("position")
    assert shared is not None
    assert "_complex_rotation.py" in {path.name for path in source_files(shared[0].__module__)}


def test_a_changed_kernel_beside_a_method_changes_its_digest(planted: Callable[..., str], tmp_path: Path) -> None:
    folder = tmp_path / "planted"
    package = folder / "boxed"
    package.mkdir()
    name = planted("boxed_method")
    method = (folder / f"{name}.py").read_text()
    (package / "method.py").write_text(method + "\nfrom boxed.kernels import SIZE\n")
    (package / "kernels.py").write_text("SIZE = 1\n")
    (package / "__init__.py").write_text("from boxed.method import register_methods\n")
    (folder / f"{name}.py").write_text("from boxed import register_methods\n")
    before = source_digest(parse_spec(name))
    assert source_digest(parse_spec(name)) == before
    (package / "kernels.py").write_text("SIZE = 2\n")
    assert source_digest(parse_spec(name)) != before
    for module in [m for m in sys.modules if m.partition(".")[0] == "boxed"]:
        del sys.modules[module]
