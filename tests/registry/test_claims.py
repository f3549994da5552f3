"""The claims about methods, held on the stored results that `python docs/measure_claims.py` measures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from longatlas.catalog import load_catalog
from longatlas.combination import parse_spec
from longatlas.identity import Code, current_sources

DOCS = Path(__file__).parents[2] / "docs"
CLAIMS = yaml.safe_load((DOCS / "claims.yaml").read_text())["claims"]
ROWS = json.loads((DOCS / "results" / "cpu-2-cores" / "quality.json").read_text())
VALUES = {(row["phase"], row["method"], row["metric"], row["T"]): row["value"] for row in ROWS if row["status"] == "ok"}


def named(claim: dict[str, Any]) -> set[str]:
    return {part["method"] for check in claim["checks"] for part in (check, check.get("than", {})) if "method" in part}


def holds(check: dict[str, Any], task: str, values: dict[Any, float]) -> bool:
    """Whether `above` or `below` is true of a value: against a number, or by a margin against another value."""
    value = values[task, check["method"], check["metric"], check["T"]]
    (relation,) = {"above", "below"} & check.keys()
    limit = check[relation]
    if "than" in check:
        than = {"method": check["method"], "metric": check["metric"], "T": check["T"], **check["than"]}
        other = values[task, than["method"], than["metric"], than["T"]]
        limit = other + limit if relation == "above" else other - limit
    return bool(value > limit if relation == "above" else value < limit)


def stale(claim: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    """The methods of a claim whose stored rows were measured by other code than today's."""
    own = [row for row in rows if row["phase"] == claim["task"] and row["method"] in named(claim)]
    cells = [(row["method"], row["impl"], "quality", row["phase"], row["case"]["preset"]) for row in own]
    today = current_sources(cells)
    return sorted({row["method"] for row in own if row["source"] not in today})


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim["claim"].replace(" ", "_"))
def test_each_claim_holds_on_the_stored_results(claim: dict[str, Any]) -> None:
    for check in claim["checks"]:
        assert holds(check, claim["task"], VALUES), check
    changed = stale(claim, ROWS)
    if changed:
        pytest.skip(f"stale: the code of {', '.join(changed)} has changed; `python docs/measure_claims.py` measures it")


def test_a_claim_is_stale_until_it_is_measured_by_todays_code() -> None:
    claim = CLAIMS[0]
    task = load_catalog().task(claim["task"])
    code = Code()
    fresh = [
        {**row, "source": code.of(parse_spec(row["method"]), "quality", task, "quick", row["impl"])}
        for row in ROWS
        if row["phase"] == claim["task"]
    ]
    assert stale(claim, fresh) == []
    (one, *_) = sorted(named(claim))
    changed = [{**row, "source": "older-1234"} if row["method"] == one else row for row in fresh]
    assert stale(claim, changed) == [one]


def test_claims_name_tasks_and_methods_as_the_rows_do() -> None:
    tasks = load_catalog().tasks
    for claim in CLAIMS:
        assert claim["task"] in tasks
        assert claim["checks"]
        for spec in named(claim):
            assert parse_spec(spec).spec == spec
            statuses = {row["status"] for row in ROWS if (row["phase"], row["method"]) == (claim["task"], spec)}
            assert statuses == {"ok"}, (claim["claim"], spec)


def test_stored_rows_are_of_one_setting_and_hold_no_place_of_this_machine() -> None:
    for row in ROWS:
        assert (row["measure"], row["case"]["preset"], row["device"], row["threads"]) == ("quality", "quick", "cpu", 1)
        assert not row["case"].get("corpus")
    assert "/home" not in json.dumps(ROWS)
    assert "/tmp" not in json.dumps(ROWS)


def test_a_check_can_fail() -> None:
    values = {("t", "a", "m", 1): 0.5, ("t", "b", "m", 1): 0.4}
    of = {"method": "a", "metric": "m", "T": 1}
    assert holds({**of, "above": 0.4}, "t", values)
    assert not holds({**of, "below": 0.5}, "t", values)
    assert holds({**of, "above": 0.05, "than": {"method": "b"}}, "t", values)
    assert not holds({**of, "above": 0.2, "than": {"method": "b"}}, "t", values)
    assert not holds({**of, "below": 0.0, "than": {"method": "b"}}, "t", values)
