"""Writes the package of a new method from the templates beside this file."""

from __future__ import annotations

import importlib.util
import keyword
import re
import shutil
import sys
import tempfile
from importlib import resources
from pathlib import Path
from string import Template

from longatlas.catalog import load_catalog
from longatlas.errors import LongAtlasError, unknown_name
from longatlas.slots import SLOTS


def write_package(name: str, *, slot: str, family: str, title: str = "", directory: Path = Path()) -> Path:
    """Write directory/name with a working method in `slot`, and return its path.

    Raises LongAtlasError, and leaves nothing behind, when the name is bad or taken, the slot or family is
    unknown, the family is no leaf, or the folder exists and is not empty.
    """
    title = title or name.replace("_", " ").capitalize()
    _check_name(name)
    _check_title(title)
    if slot not in SLOTS:
        raise unknown_name("slot", slot, SLOTS)
    load_catalog().taxonomy.leaf(family)
    target = directory.expanduser() / name
    _check_target(target)
    _write(target, render(name, slot=slot, family=family, title=title))
    return target


def render(name: str, *, slot: str, family: str, title: str) -> dict[str, str]:
    """The files of the package: path in it -> text."""
    values = {"name": name, "title": title, "family": family, "slot": slot}
    files = {
        "pyproject.toml": "pyproject.toml.tmpl",
        "README.md": "README.md.tmpl",
        f"{name}/__init__.py": f"{slot}.py.tmpl",
        f"tests/test_{name}.py": "test.py.tmpl",
    }
    return {path: Template(_read(template)).substitute(values) for path, template in files.items()}


def _read(template: str) -> str:
    return resources.files(__name__).joinpath(template).read_text(encoding="utf-8")


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise LongAtlasError(f"name '{name}' is not snake_case; use small letters, digits and '_', a letter first")
    catalog = load_catalog()
    if name in catalog.methods:
        plugin = catalog.plugin_of(name).name
        raise LongAtlasError(f"method name '{name}' is taken by plugin '{plugin}'; choose another name")
    reserved = keyword.iskeyword(name) or name == "tests" or name in sys.stdlib_module_names
    if reserved or _is_installed(name):
        raise LongAtlasError(f"name '{name}' means something to Python already; choose another name")


def _is_installed(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None


def _check_title(title: str) -> None:
    if re.search(r'["\\\n\r]', title):
        raise LongAtlasError(f"title {title!r} has a quote, a backslash or a line break; leave them out")


def _check_target(target: Path) -> None:
    if target.is_dir() and not any(target.iterdir()):
        return
    if target.exists() or target.is_symlink():
        raise LongAtlasError(
            f"'{target}' exists and is not an empty folder, and nothing is overwritten; choose another name or "
            "another --directory"
        )


def _write(target: Path, files: dict[str, str]) -> None:
    """All or nothing: the files are written beside the target, which then gets its name."""
    staged = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        for path, text in files.items():
            (staged / path).parent.mkdir(parents=True, exist_ok=True)
            (staged / path).write_text(text, encoding="utf-8")
        staged.chmod(0o755)
        staged.replace(target)
    except OSError as error:
        if staged is not None:
            shutil.rmtree(staged, ignore_errors=True)
        raise LongAtlasError(
            f"cannot write '{target}': {error.strerror}; choose another place with --directory"
        ) from None
