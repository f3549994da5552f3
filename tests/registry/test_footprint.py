"""Table 1 of the Infini-attention paper: its printed numbers, and what our memories keep."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from longatlas.footprint import TABLE, Setting, find
from longatlas.measure.footprint import measured_elements

PAPER = Setting()
PRINTED = {
    "Transformer-XL": "50M",
    "Memorizing Transformer": "183M",
    "RMT": "2.5M",
    "Infini-attention": "1.6M",
}


def in_print(elements: int) -> str:
    millions = elements / 1e6
    return f"{millions:.1f}M" if millions < 10 else f"{millions:.0f}M"


@pytest.mark.parametrize("name", PRINTED)
def test_the_papers_numbers_come_out(name: str) -> None:
    (row,) = [row for row in TABLE if row.name == name]
    assert in_print(row.elements(PAPER)) == PRINTED[name]


@pytest.mark.parametrize(
    "setting",
    [
        Setting(layers=2, heads=4, head_size=8, segment=16, memory=64),
        Setting(layers=3, heads=2, head_size=16, segment=8, memory=40),
    ],
)
def test_our_memories_keep_what_the_formulas_say(setting: Setting) -> None:
    keys_and_values = 2 * setting.head_size * setting.heads
    for name in ("transformer_xl", "infini_attention", "memorizing_transformer"):
        row = find(name)
        assert row is not None
        measured = measured_elements(row, setting)
        expected = row.elements(setting)
        if name == "memorizing_transformer":
            # Ours keeps N - 1 tokens of the segment before: with the query's own they are N.
            expected -= keys_and_values * setting.layers
        assert measured == expected, name


def test_a_row_without_a_built_in_method_is_not_measured() -> None:
    assert measured_elements(next(row for row in TABLE if row.name == "RMT"), PAPER) is None
    assert find("vanilla") is None


def test_the_command(command: Callable[..., Any]) -> None:
    done = command("footprint", "--json", "--segment", "16", "--memory", "32")
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert [in_print(rows[name]["paper"]) for name in PRINTED] == list(PRINTED.values())
    assert rows["Infini-attention"]["measured"] == rows["Infini-attention"]["yours"]
    assert rows["RMT"]["measured"] is None
    assert "50.3M" in command("footprint").stdout
    assert command("footprint", "--heads", "0").returncode == 2
