"""Words that are shared, and the one rule of a value."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

import longatlas
from longatlas.rules import Rule, WrongValueError
from longatlas.words import ENDING, FAILED, STATUSES, arxiv_address, is_arxiv
from longatlas_dashboard import marks

SOURCES = [path for path in Path(longatlas.__file__).parent.rglob("*.py") if path.name != "words.py"]


def test_statuses_have_flags_and_the_dashboard_has_words_for_them() -> None:
    assert FAILED == ("oom", "timeout", "crash", "unsupported", "incorrect", "skipped")
    assert ENDING == ("oom", "timeout", "skipped")
    assert [name for name, status in STATUSES.items() if status.is_fault] == ["crash", "incorrect"]
    assert set(STATUSES) <= set(marks.STATUSES)


def test_no_other_list_of_statuses() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Tuple | ast.List | ast.Set):
                named = {item.value for item in node.elts if isinstance(item, ast.Constant)}
                assert len(named & set(STATUSES)) < 2, f"{path.name}, line {node.lineno}"


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("2312.04927", True),
        ("2312.04927v2", True),
        ("0704.0001", True),
        ("cs.LG/0501001", True),
        ("hep-th/9901001v3", True),
        ("2312.049", False),
        ("https://arxiv.org/abs/2312.04927", False),
        ("", False),
    ],
)
def test_an_arxiv_id(text: str, is_one: bool) -> None:
    assert is_arxiv(text) == is_one
    assert arxiv_address(text).endswith(text)


@pytest.mark.parametrize(
    ("rule", "value", "told"),
    [
        (Rule(int, 1, 8), 0, "is 0; expected a whole number of at least 1 and at most 8"),
        (Rule(int, 0, 2**48), 2**49, "and at most 2^48"),
        (Rule(int), 1.0, "is 1.0; expected a whole number"),
        (Rule(int), True, "is True; expected a whole number"),
        (Rule(float, 0.5), 0.25, "is 0.25; expected a number of at least 0.5"),
        (Rule(float, 0.0), float("nan"), "is nan; expected a number of at least 0"),
        (Rule(float), 10**400, "is a whole number of 401 digits; expected a number"),
        (Rule(bool), 1, "is 1; expected true or false"),
        (Rule(str), 3, "is 3; expected text"),
        (Rule(str, choices=("a", "b")), 3, "is 3; expected one of a, b"),
        (Rule(str, choices=lambda: ["abc"]), "abd", "is the unknown value 'abd'; did you mean 'abc'?"),
    ],
)
def test_a_value_that_breaks_its_rule_is_told_with_the_rule(rule: Rule, value: Any, told: str) -> None:
    with pytest.raises(WrongValueError, match=r"^is ") as caught:
        rule.check(value)
    assert told in str(caught.value)


def test_a_whole_number_becomes_a_float_where_one_is_due() -> None:
    found = Rule(float, 0, 10).check(3)
    assert (found, type(found)) == (3.0, float)
    assert type(Rule(int).check(3)) is int


@pytest.mark.parametrize(
    ("kind", "text", "value"), [(bool, "True", True), (bool, "0", False), (int, "12", 12), (float, "1e3", 1000.0)]
)
def test_a_text_is_read(kind: type, text: str, value: Any) -> None:
    found = Rule(kind).read(text)
    assert (found, type(found)) == (value, kind)


@pytest.mark.parametrize(("kind", "text"), [(bool, "yes"), (int, "1.5"), (int, ""), (float, "fast")])
def test_a_text_that_is_no_value_is_told(kind: type, text: str) -> None:
    with pytest.raises(WrongValueError, match=f"is '{text}'; expected "):
        Rule(kind).read(text)
