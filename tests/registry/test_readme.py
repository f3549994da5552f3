"""README.md says nothing that is not so: generated parts are current, commands exist, files are there."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from longatlas.cli import cli
from longatlas.harness.plan import Plan, plan_from_yaml
from longatlas.testing.checks import CHECKS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    inline = re.findall(r"`(longatlas [^`]+)`", README)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in [*lines, *inline] if line.startswith("longatlas ")]


def test_generated_parts_are_current():
    done = subprocess.run(
        [sys.executable, "docs/readme.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_there_are_commands_to_check():
    assert len(commands()) > 8


@pytest.mark.parametrize("line", commands())
def test_commands_parse(line):
    words = shlex.split(line.split(">")[0])[1:]
    context = click.Context(cli)
    name, command, rest = cli.resolve_command(context, words)
    command.make_context(name, rest, parent=context, resilient_parsing=False)


def test_the_plan_loads_and_the_python_example_names_a_plan():
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert plan_from_yaml(text).tasks == ("language_model", "passkey")
    (values,) = re.findall(r"longatlas\.run\((\{.*?\})\)", README)
    assert Plan(**ast.literal_eval(values)).lengths == (1024, 4096)


def test_the_functions_example_runs():
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "Decoder(" in block]
    names: dict[str, object] = {}
    exec(code, names)
    assert names["o"].shape == (1, 1000, 8, 64)
    assert names["logits"].shape == (1, 1, 256)
    assert names["state"].position == 501


def test_number_of_checks():
    assert f"{len(CHECKS)} checks" in README


def test_places_exist():
    table = README.split("## Where things are")[1]
    places = re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)
    assert len(places) >= 6
    for place in places:
        assert (ROOT / place).exists(), place


def test_local_links_exist():
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:`|^)make ([a-z]+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
