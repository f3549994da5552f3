"""What code a number depends on: the import closure of what computes it, without what is only told."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from longatlas import LongAtlasError
from longatlas.cards import Task
from longatlas.combination import parse_spec
from longatlas.identity import Code, current_sources
from longatlas.identity.closure import Closures
from longatlas.identity.code import modules_of
from longatlas.identity.module import parse_source
from longatlas.lazy import Later

FILES = {
    "made/__init__.py": "import made.method, made.other",
    "made/method.py": "from made import deep\nfrom .kernels import fast\nimport os, torch_is_not_here.at_all\n"
    "from made import passed, first_used\nimport made.whole as whole\n"
    "def build(config):\n    from made.late import late\n    whole.seldom()",
    "made/kernels.py": "from .tables import numbers as n",
    "made/tables.py": "import made.method  # a circle",
    "made/late.py": "from importlib import import_module as i\nimport importlib\n"
    "i('made.by_name')\nimportlib.import_module(f'made.all.{1}')",
    "made/by_name.py": "",
    "made/all/__init__.py": "",
    "made/all/one.py": "",
    "made/deep/__init__.py": "from .inner import leaf",
    "made/deep/inner/__init__.py": "",
    "made/deep/inner/leaf.py": "from ...from_leaf import x",
    "made/from_leaf.py": "",
    "made/passed.py": "",
    "made/facade.py": "",
    "made/first.py": "",
    "made/whole/__init__.py": "lazy_exports(__name__, {'seldom': '.sub', 'never': '.other'})",
    "made/whole/sub.py": "",
    "made/whole/other.py": "",
    "made/other.py": "import made.unused",
    "made/unused.py": "",
    "made/checked.py": "",
}
PACKAGE = (
    "from typing import TYPE_CHECKING\nfrom longatlas.lazy import lazy_exports\nfrom made import other\n"
    "if TYPE_CHECKING:\n    from made.checked import first_used\n"
    "__getattr__ = lazy_exports(__name__, {'first_used': '.first', 'unused': '.unused'})\n"
)


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
    (tmp_path / "made/__init__.py").write_text(PACKAGE)
    return tmp_path / "made"


def test_a_module_counts_with_what_it_imports_and_with_no_other(made: Path) -> None:
    reached = {name.removeprefix("made.") for name in Closures().closure(["made.method"])}
    at_its_head = {"method", "kernels", "tables", "deep", "deep.inner.leaf", "from_leaf", "passed", "first"}
    in_functions = {"late", "by_name", "all", "all.one", "whole", "whole.sub"}
    assert reached == at_its_head | in_functions
    assert not {"made.kernels", "made.deep", "made.late"} & sys.modules.keys(), "nothing is imported"


def test_a_file_that_cannot_be_parsed_still_counts(made: Path) -> None:
    before = Closures().digest(["made.method"])
    (made / "tables.py").write_text("def broken(")
    broken = Closures().digest(["made.method"])
    (made / "tables.py").write_text("def broken_too(")
    assert len({before, broken, Closures().digest(["made.method"])}) == 3


BEFORE = '''
"""A module."""
from longatlas import Method, Option

def build(config):
    """Builds."""
    # why
    return config * 2.0

METHOD = Method(name="a", summary="Old.", fills={"ffn": build}, options=(Option("size", 1, "old help"),))
'''


@pytest.mark.parametrize(
    ("old", "new", "counts"),
    [
        ("A module", "Another", False),
        ("Builds.", "Makes.", False),
        ("    # why\n", "", False),
        ("config * 2.0", "(config\n        *   2.0)", False),
        ('"Old."', '"New."', False),
        ('"old help"', 'help="new help"', True),  # a keyword is other code; below it is not
        ('"old help"', '"new help"', False),
        ("2.0", "2", True),
        ("2.0", "2.5", True),
        ("config * 2.0", "2.0 * config", True),
        ('Option("size", 1', 'Option("size", 2', True),
        ('{"ffn": build}', '{"mixer": build}', True),
    ],
)
def test_what_counts_of_a_text(old: str, new: str, counts: bool) -> None:
    assert old in BEFORE
    before, after = (parse_source(text.encode(), "p").digest for text in (BEFORE, BEFORE.replace(old, new)))
    assert (before != after) is counts


def test_functions_are_followed_to_their_modules() -> None:
    def outer() -> Callable[..., object]:
        inner = parse_spec
        return lambda: inner("vanilla")

    held = functools.partial(Later("somewhere.later", "run"), as_task=outer())
    assert set(modules_of([held])) == {"somewhere.later", __name__, "longatlas.combination"}


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
    before = Code().of(parse_spec(name), "speed")
    assert Code().of(parse_spec(name), "speed") == before
    (package / "kernels.py").write_text("SIZE = 2\n")
    assert Code().of(parse_spec(name), "speed") != before
    for module in [m for m in sys.modules if m.partition(".")[0] == "boxed"]:
        del sys.modules[module]


def test_a_source_that_is_gone_is_named(planted: Callable[..., str], tmp_path: Path) -> None:
    name = planted("gone_method")
    spec = parse_spec(name)
    (tmp_path / "planted" / f"{name}.py").unlink()
    with pytest.raises(LongAtlasError, match=r"the source of method 'gone_method' cannot be read any more: .*again"):
        Code().of(spec, "speed")
    assert current_sources([(name, "torch", "speed", "prefill", "")]) == frozenset()


def test_a_task_counts_by_its_settings_and_its_code(made: Path) -> None:
    def of(run: object, **settings: object) -> str:
        card = Task("mine", "Mine", "Mine.", run=run, presets={"smoke": settings, "demo": {"steps": 7}})  # type: ignore[arg-type]
        return Code().of(parse_spec("vanilla"), "quality", card, "smoke")

    run = Later("made.late", "run")
    before = of(run, steps=1)
    assert of(run, steps=1) == before
    assert of(run, steps=2) != before
    (made / "by_name.py").write_text("CHANGED = 1\n")
    assert of(run, steps=1) != before


def test_code_that_is_gone_has_no_source() -> None:
    cells = [("vanilla", "torch", "speed", "prefill", ""), ("no_such_method", "torch", "speed", "prefill", "")]
    assert len(current_sources([*cells, ("vanilla", "torch", "quality", "no_such_task", "smoke")])) == 1
