"""`longatlas new` writes packages that pass verify, in every slot, and refuses what would not work."""

import json
import os
import subprocess
import sys
from types import ModuleType

import pace
import pytest

from longatlas import LongAtlasError
from longatlas.catalog import build_catalog
from longatlas.plugins import Source
from longatlas.scaffold import render, write_package
from longatlas.slots import SLOTS
from longatlas.testing import check_method

LEAF = "efficient_attention/sparse/fixed_patterns"


@pytest.mark.parametrize("slot", SLOTS)
def test_the_package_of_each_slot_passes_verify(slot):
    files = render("trial", slot=slot, family=LEAF, title="Trial run")
    module = ModuleType("trial")
    exec(files["trial/__init__.py"], module.__dict__)
    catalog = build_catalog([Source("trial", lambda: module)])
    assert [plugin.error for plugin in catalog.plugins] == [""]
    method = catalog.method("trial")
    assert (method.title, method.family, list(method.fills)) == ("Trial run", LEAF, [slot])
    report = check_method(method)
    assert sum(result.status == "passed" for result in report.results) >= 11


def new(*args, code=0):
    done = subprocess.run(
        [sys.executable, "-m", "longatlas", "new", *args], capture_output=True, text=True, timeout=pace.seconds(60)
    )
    assert done.returncode == code, done.stderr
    return done


def test_a_new_package_installs_and_appears(tmp_path):
    done = new("far_look", "--slot", "mixer", "--family", LEAF, "--title", "Far look", "--directory", str(tmp_path))
    package = tmp_path / "far_look"
    assert f"pip install -e {package}" in done.stdout
    assert "longatlas verify far_look" in (package / "README.md").read_text()
    site = tmp_path / "site"
    command = "install --quiet --no-deps --no-build-isolation --no-index --disable-pip-version-check --target"
    subprocess.run(
        [sys.executable, "-m", "pip", *command.split(), str(site), str(package)], check=True, timeout=pace.seconds(120)
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    listed = subprocess.run(
        [sys.executable, "-m", "longatlas", "list", "--json"], capture_output=True, text=True, env=environment
    )
    row = next(row for row in json.loads(listed.stdout) if row["name"] == "far_look")
    assert (row["title"], row["status"], row["slots"]) == ("Far look", "ready", ["mixer"])
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(package)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert tested.returncode == 0, tested.stdout


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("FarLook", {}, "name 'FarLook' is not snake_case"),
        ("../far", {}, "name '../far' is not snake_case"),
        ("yarn", {}, "'yarn' is taken by plugin 'extrapolative_pes'"),
        ("torch", {}, "name 'torch' means something to Python already"),
        ("json", {}, "name 'json' means something to Python already"),
        ("lambda", {}, "name 'lambda' means something to Python already"),
        ("far_look", {"slot": "atention"}, "unknown slot 'atention'; did you mean 'attention'?"),
        ("far_look", {"family": "misc"}, "is an inner node of the taxonomy; give one of its leaves: misc/objectives"),
        ("far_look", {"family": "misc/objectivs"}, "did you mean 'misc/objectives'?"),
        ("far_look", {"title": 'a "quoted" one'}, "has a quote, a backslash or a line break"),
    ],
)
def test_refusals_leave_nothing_behind(tmp_path, name, changes, words):
    with pytest.raises(LongAtlasError) as error:
        write_package(name, **{"slot": "attention", "family": LEAF, "directory": tmp_path / "made", **changes})
    assert words in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path):
    mine = tmp_path / "far_look" / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    done = new("far_look", "--slot", "ffn", "--family", LEAF, "--directory", str(tmp_path), code=2)
    assert "exists and is not an empty folder" in done.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["far_look", "notes.txt"]
    mine.unlink()
    new("far_look", "--slot", "ffn", "--family", LEAF, "--directory", str(tmp_path))
    assert (tmp_path / "far_look" / "pyproject.toml").exists()


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LongAtlasError, match=r"cannot write .*choose another place with --directory"):
        write_package("far_look", slot="ffn", family=LEAF, directory=tmp_path / "file" / "below")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
