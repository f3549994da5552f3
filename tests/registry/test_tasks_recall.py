"""MQAR, overwrite recall and induction heads: draws by brute force, and scores of models that know the answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from longatlas.tasks import induction, mqar, overwrite_recall
from longatlas.tasks.session import Session, Trained
from longatlas.tasks.training import Record


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Knows:
    """Answers each token with what its `rule(row, place)` says, in a vocabulary of 256."""

    def __init__(self, rule: Callable[[list[int], int], int]) -> None:
        self.rule = rule

    def logits_at(self, tokens: Tensor, chosen: Tensor) -> Tensor:
        answers = [
            self.rule(row.tolist(), place)
            for row, places in zip(tokens, chosen, strict=True)
            for place in places.nonzero().flatten().tolist()
        ]
        return torch.nn.functional.one_hot(torch.tensor(answers), 256).float()


def after_first(row: list[int], place: int) -> int:
    return row[row.index(row[place]) + 1]


def after_last_before(row: list[int], place: int) -> int:
    return row[max(i for i in range(place) if row[i] == row[place]) + 1]


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, Any, Any], dict[tuple[str, int], float]]:
    """scored(module, session, model): a task's rows for a model that needs no training."""

    def score(module: Any, session: Session, model: Any) -> dict[tuple[str, int], float]:
        trained = Trained(model, Record(1, 0.0, None))
        monkeypatch.setattr(Session, "trained", lambda *given: trained)
        return {(row["metric"], row["T"]): row["value"] for row in module.run(session)}

    return score


@pytest.mark.parametrize(("vocab", "length", "pairs"), [(32, 16, 2), (256, 64, 4), (256, 64, 16)])
def test_mqar_labels_by_brute_force(vocab: int, length: int, pairs: int) -> None:
    tokens, labels = mqar.draw(vocab, length, pairs, 64, generator())
    assert tokens.shape == labels.shape == (64, length)
    for row, wanted in zip(tokens.tolist(), labels.tolist(), strict=True):
        asked = [place for place, label in enumerate(wanted) if label != -100]
        assert sorted(row[place] for place in asked) == sorted(row[0 : 2 * pairs : 2])
        assert len({row[place] for place in asked}) == pairs, "keys differ"
        for place in asked:
            assert place >= 2 * pairs
            assert wanted[place] == after_first(row, place)
            assert 0 < row[place] < vocab // 2 <= wanted[place] < vocab


def test_mqar_gaps_prefer_the_near() -> None:
    _, labels = mqar.draw(256, 128, 1, 4000, generator())
    gaps = (labels >= 0).int().argmax(1).double()
    assert 2 < gaps.median() < 16, "a power law near 1/n: half of the queries come within the first few places"
    assert gaps.max() > 100


def test_mqar_scores_a_model_that_knows(make_session: Any, scored: Any) -> None:
    session = make_session("mqar")
    rows = scored(mqar, session, Knows(after_first))
    assert next(iter(rows)) == ("accuracy_overall", 24), "rates are chosen by the first row"
    assert rows["accuracy", 16] == rows["accuracy_pairs_2", 16] == rows["accuracy_pairs_4", 24] == 1.0
    assert rows["chance", 24] == 1 / 16
    assert scored(mqar, session, Knows(lambda row, place: 0))["accuracy", 24] == 0.0


def test_mqar_pools_the_pairs_of_each_length(make_session: Any, scored: Any) -> None:
    """A model that answers short sequences only: 2 and 4 of 14 queries are right."""
    short = Knows(lambda row, place: after_first(row, place) if len(row) == 16 else 0)
    rows = scored(mqar, make_session("mqar", lengths=(16, 16, 32), pairs=(2, 4, 8)), short)
    assert [rows["accuracy", T] for T in (16, 32)] == [1.0, 0.0]
    assert rows["accuracy_overall", 32] == pytest.approx(6 / 14)
    assert [rows[f"accuracy_pairs_{n}", T] for n, T in ((2, 16), (4, 16), (8, 32))] == [1.0, 1.0, 0.0]
    alone = scored(mqar, make_session("mqar", lengths=(16,), pairs=(2,)), short)
    assert next(iter(alone)) == ("accuracy", 16)
    assert ("accuracy_overall", 16) not in alone


def test_overwrite_recall_by_brute_force() -> None:
    settings = {"vocab": 32, "length": 40, "pairs": 3, "rounds": 3}
    tokens, labels, stale = overwrite_recall.draw(settings, 64, generator())
    for row, wanted, old in zip(tokens.tolist(), labels.tolist(), stale.tolist(), strict=True):
        rounds = [dict(zip(row[6 * i : 6 * i + 6 : 2], row[6 * i + 1 : 6 * i + 6 : 2], strict=True)) for i in range(3)]
        assert all(round.keys() == rounds[0].keys() and len(round) == 3 for round in rounds)
        asked = [place for place, label in enumerate(wanted) if label != -100]
        assert sorted(row[place] for place in asked) == sorted(rounds[0])
        for place in asked:
            values = [round[row[place]] for round in rounds]
            assert len(set(values)) == 3, "a key is never bound to the same value again"
            assert [*old[place], wanted[place]] == values
        assert all(row[place] == 0 for place in range(18, 40) if place not in asked)


def test_overwrite_recall_tells_the_last_value_from_an_overwritten_one(make_session: Any, scored: Any) -> None:
    session = make_session("overwrite_recall")
    last = scored(overwrite_recall, session, Knows(after_last_before))
    first = scored(overwrite_recall, session, Knows(after_first))
    neither = scored(overwrite_recall, session, Knows(lambda row, place: 0))
    for rows, accuracy, overwritten in ((last, 1.0, 0.0), (first, 0.0, 1.0), (neither, 0.0, 0.0)):
        assert (rows["accuracy", 24], rows["overwritten_answers", 24]) == (accuracy, overwritten)


def test_induction_by_brute_force() -> None:
    tokens, labels = induction.draw(16, 20, 300, generator())
    places = set()
    for row, wanted in zip(tokens.tolist(), labels.tolist(), strict=True):
        assert row[-1] == 15
        assert row.count(15) == 2
        places.add(row.index(15))
        assert wanted[:-1] == [-100] * 19
        assert wanted[-1] == row[row.index(15) + 1] < 15
    assert places == set(range(18)), "the mark stands anywhere"


def test_induction_is_tested_at_every_length(make_session: Any, scored: Any) -> None:
    rows = scored(induction, make_session("induction"), Knows(after_first))
    assert {key: value for key, value in rows.items() if key[0] == "accuracy"} == {
        ("accuracy", 16): 1.0,
        ("accuracy", 64): 1.0,
    }
