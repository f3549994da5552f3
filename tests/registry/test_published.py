"""Published points: the packaged file, its checks, and the command that lists it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from longatlas import LongAtlasError
from longatlas.cli import cli
from longatlas.combination import parse_spec
from longatlas.published import load_points

POINT = """
points:
  - name: A model
    task: pg19
    metric: perplexity
    value: 9.65
    unit: per token
    setting: "as in the paper"
    source: {paper: "2404.07143", place: Table 2}
"""


def test_every_point_has_a_source_and_a_known_method() -> None:
    points = load_points()
    assert len(points) > 15
    for point in points:
        assert point.source.place.startswith(("Table", "Figure"))
        if point.method:
            assert parse_spec(point.method).spec
    seen = [(p.name, p.task, p.metric, p.setting) for p in points]
    assert len(set(seen)) == len(seen)


def test_infini_attention_beside_its_rivals() -> None:
    values = {p.name: p.value for p in load_points() if p.task == "pg19" and p.source.paper == "2404.07143"}
    assert values == {
        "Transformer-XL": 11.88,
        "Memorizing Transformers": 11.37,
        "RMT": 13.27,
        "Infini-Transformer (Linear)": 9.65,
        "Infini-Transformer (Linear + Delta)": 9.67,
    }


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("    unit: per token\n", "", r"points.yaml, line 3: points\[0\] lacks the key 'unit'"),
        ("value: 9.65", "value: nine", r"line 6: points\[0\].value is 'nine'; expected int or float"),
        ('"2404.07143"', "Munkhdalai", r"line 9: points\[0\].source.paper is 'Munkhdalai'; expected an arXiv id"),
        ("unit: per", "units: per", r"lacks the key 'unit'; expected it here instead of 'units'"),
        ("points:\n", "seeds: 2\npoints:\n", r"line 2: unknown key 'seeds'"),
    ],
)
def test_mistakes_are_told_with_their_line(old: str, new: str, error: str, tmp_path: Path) -> None:
    path = tmp_path / "points.yaml"
    path.write_text(POINT.replace(old, new))
    with pytest.raises(LongAtlasError, match=error):
        load_points(path)


def test_the_command_lists_a_task() -> None:
    found = json.loads(CliRunner().invoke(cli, ["published", "--task", "passkey", "--json"]).output)
    assert {point["task"] for point in found} == {"passkey"}
    assert all(point["address"] == f"https://arxiv.org/abs/{point['source']['paper']}" for point in found)
    text = CliRunner().invoke(cli, ["published"]).output
    assert "arXiv:2404.07143, Table 2" in text
    wrong = CliRunner().invoke(cli, ["published", "--task", "pg18"])
    assert "did you mean 'pg19'?" in str(wrong.exception)
