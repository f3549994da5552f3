"""Passkeys in one call and over two: draws by brute force, the depth map, and what each call is given."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from longatlas.tasks import passkey, segment_passkey
from longatlas.tasks.session import Session, Trained
from longatlas.tasks.training import Record

TAIL = passkey.DIGITS  # the question and all digits but the last


@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0, None])
def test_passkey_by_brute_force(depth: float | None) -> None:
    length = 40
    tokens, labels = passkey.draw(50, length, depth, torch.Generator().manual_seed(0))
    room, starts = length - TAIL - 1 - passkey.DIGITS, set()
    for row, wanted in zip(tokens.tolist(), labels.tolist(), strict=True):
        start = row.index(passkey.KEY)
        starts.add(start)
        digits = row[start + 1 : start + 1 + passkey.DIGITS]
        assert wanted == [-100] * (length - TAIL) + digits
        assert row[-TAIL:] == [passkey.QUERY, *digits[:-1]]
        assert all(0 <= digit < passkey.SYMBOLS for digit in digits)
        filler = row[:start] + row[start + 1 + passkey.DIGITS : -TAIL]
        assert len(filler) == room
        assert all(passkey.QUERY < token < passkey.VOCAB for token in filler)
    if depth is None:
        assert len(starts) > 10
        assert starts <= set(range(room + 1))
    else:
        assert starts == {round(depth * room)}


class Copies:
    """Answers with the digits it was told, from the state alone; `forget` of the trials come out wrong."""

    def __init__(self) -> None:
        self.forget, self.seen = 0, set[tuple[int, bool]]()

    def __call__(self, tokens: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
        self.seen.add((tokens.shape[1], state is not None))
        if state is None:
            keys = (tokens == passkey.KEY).int().argmax(1)
            return torch.zeros(1), tokens.gather(1, keys[:, None] + torch.arange(1, 1 + passkey.DIGITS))
        assert (tokens[:, 0] == passkey.QUERY).all()
        answers = state.clone()
        answers[: self.forget, -1] += 1
        return torch.nn.functional.one_hot(answers, passkey.VOCAB).float(), state


def test_segment_passkey_is_scored_across_calls() -> None:
    model = Copies()
    tokens, labels = passkey.draw(4, 32, 0.3, torch.Generator().manual_seed(0))
    assert segment_passkey._found(model, tokens, labels).tolist() == [True] * 4
    assert model.seen == {(32 - TAIL, False), (TAIL, True)}
    model.forget = 1
    assert segment_passkey._found(model, tokens, labels).tolist() == [False, True, True, True]


def test_rows_are_a_map_of_depth_and_length(make_session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session("segment_passkey", test_lengths=[16, 32], trials=4)
    model = Copies()
    model.forget = 1
    monkeypatch.setattr(Session, "trained", lambda *given: Trained(model, Record(1, 0.0, None)))
    rows = segment_passkey.run(session)
    assert [(r["metric"], r["T"], r["value"]) for r in rows[:2]] == [
        ("accuracy", 16, 0.75),
        ("accuracy_depth_0", 16, 0.75),
    ]
    assert {r["metric"] for r in rows if r["T"] == 32} == {
        *("accuracy", "chance"),
        *(f"accuracy_depth_{depth}" for depth in range(passkey.DEPTHS)),
    }
    assert rows[0]["n"] == 4 * passkey.DEPTHS


def test_one_call_and_two_share_a_host(make_session: Any) -> None:
    """They draw alike for training, and differ in how they ask."""
    trained = [
        make_session(task).stage(passkey.recipe(make_session(task)), 1e-3, 0).path
        for task in ("passkey", "segment_passkey")
    ]
    assert trained[0] == trained[1]


def test_a_prompt_method_is_asked_digit_by_digit() -> None:
    class Prompted:
        """Answers the last token of a prompt with the passkey's next digit."""

        context = object()

        def __init__(self) -> None:
            self.lengths: list[int] = []

        def __call__(self, tokens: torch.Tensor) -> tuple[torch.Tensor, None]:
            self.lengths.append(tokens.shape[1])
            asked = (tokens == passkey.QUERY).int().argmax(1)
            place = (tokens == passkey.KEY).int().argmax(1) + tokens.shape[1] - asked
            return torch.nn.functional.one_hot(tokens.gather(1, place[:, None]), passkey.VOCAB).float(), None

    model = Prompted()
    tokens, labels = passkey.draw(3, 20, 0.2, torch.Generator().manual_seed(0))
    assert partial(passkey._found, model)(tokens, labels).all()
    assert model.lengths == [20, 19]
