"""Quality tasks: data by brute force, scores of known models, and hosts that are trained once."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from longatlas import Decoder, DecoderConfig, LongAtlasError, UnsupportedError
from longatlas.catalog import load_catalog
from longatlas.combination import parse_spec
from longatlas.tasks import language_model, mqar, passkey
from longatlas.tasks.session import Session, labelled_loss


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def session(cache: Path, spec: str = "vanilla", task: str = "language_model", **settings: Any) -> Session:
    preset = load_catalog().task(task).presets["smoke"]
    return Session(
        combination=parse_spec(spec),
        impl="torch",
        device="cpu",
        dtype=torch.float32,
        seed=0,
        settings={**preset, **settings},
        corpus="",
        cache=str(cache),
    )


@pytest.mark.parametrize(("vocab", "length", "pairs"), [(32, 16, 2), (256, 64, 4), (256, 64, 16)])
def test_mqar_labels_by_brute_force(vocab: int, length: int, pairs: int) -> None:
    settings = {"vocab": vocab, "length": length, "pairs": pairs}
    tokens, labels = mqar.draw(settings, 64, generator())
    assert tokens.shape == labels.shape == (64, length)
    for row, wanted in zip(tokens.tolist(), labels.tolist(), strict=True):
        asked = [place for place, label in enumerate(wanted) if label != -100]
        assert len(asked) == pairs
        assert sorted(row[place] for place in asked) == sorted(row[0 : 2 * pairs : 2])
        assert len({row[place] for place in asked}) == pairs, "keys differ"
        for place in asked:
            assert place >= 2 * pairs
            assert wanted[place] == row[row.index(row[place]) + 1], "the value that followed the key at first"
            assert 0 < row[place] < vocab // 2 <= wanted[place] < vocab


def test_mqar_gaps_prefer_the_near() -> None:
    _, labels = mqar.draw({"vocab": 256, "length": 128, "pairs": 1}, 4000, generator())
    gaps = (labels >= 0).int().argmax(1).double()
    half = gaps.median()
    assert 2 < half < 16, "a power law near 1/n: half of the queries come within the first few places"
    assert gaps.max() > 100


@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0, None])
def test_passkey_by_brute_force(depth: float | None) -> None:
    length = 40
    tokens, digits = passkey.draw(50, length, depth, generator())
    room = length - 2 * (1 + passkey.DIGITS)
    starts = set()
    for row, wanted in zip(tokens.tolist(), digits.tolist(), strict=True):
        start = row.index(passkey.KEY)
        starts.add(start)
        assert row[start + 1 : start + 1 + passkey.DIGITS] == wanted
        assert row[-1 - passkey.DIGITS] == passkey.QUERY
        assert row[-passkey.DIGITS :] == wanted
        assert all(0 <= digit < passkey.SYMBOLS for digit in wanted)
        filler = row[:start] + row[start + 1 + passkey.DIGITS : -1 - passkey.DIGITS]
        assert len(filler) == room
        assert all(passkey.QUERY < token < passkey.VOCAB for token in filler)
    if depth is None:
        assert len(starts) > 10
        assert {min(starts), max(starts)} <= set(range(room + 1))
    else:
        assert starts == {round(depth * room)}


def test_passkey_is_scored_across_calls(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    class Copies:
        """Answers with the digits it was told, from the state alone; `forget` of them come out wrong."""

        forget = 0

        def __call__(self, tokens: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
            seen.append((tokens.shape[1], state is not None))
            if state is None:
                keys = (tokens == passkey.KEY).int().argmax(1)
                places = keys[:, None] + torch.arange(1, 1 + passkey.DIGITS)
                return torch.zeros(1), tokens.gather(1, places)
            assert (tokens[:, 0] == passkey.QUERY).all()
            answers = state.clone()
            answers[: self.forget, -1] += 1
            return torch.nn.functional.one_hot(answers, passkey.VOCAB).float(), state

    made, decoder = session(tmp_path, task="passkey", trials=4), Copies()
    assert [passkey._accuracy(made, decoder, 32, depth) for depth in range(passkey.DEPTHS)] == [1.0] * passkey.DEPTHS
    assert set(seen) == {(32 - 1 - passkey.DIGITS, False), (passkey.DIGITS, True)}
    decoder.forget = 1
    assert passkey._accuracy(made, decoder, 32, 3) == 0.75


def test_passkey_rows_are_a_map_of_depth_and_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passkey, "_accuracy", lambda session, decoder, length, depth: depth / 10)
    rows = passkey.run(session(tmp_path, task="passkey", steps=1, lengths=[16, 32]))
    assert [(r["metric"], r["T"], r["value"]) for r in rows[:3]] == [
        ("accuracy", 16, pytest.approx(0.45)),
        ("accuracy_depth_0", 16, 0.0),
        ("accuracy_depth_1", 16, 0.1),
    ]
    assert len(rows) == 2 * (1 + passkey.DEPTHS)
    assert all(0 <= r["low"] <= r["value"] <= r["high"] <= 1 for r in rows)


def uniform(method: str = "vanilla") -> Decoder:
    """A decoder that holds every byte for equally likely."""
    decoder = Decoder(DecoderConfig(d_model=16, n_layers=1, n_heads=2, train_length=16), method)
    torch.nn.init.zeros_(decoder.core.head.weight)  # type: ignore[union-attr, arg-type]
    return decoder


@pytest.mark.parametrize("method", ["vanilla", "passage_selection"])
def test_a_uniform_model_needs_eight_bits(method: str) -> None:
    tokens = torch.randint(256, (3, 8 * 16 + 1), generator=generator())
    rows = language_model.bits_by_position(uniform(method), tokens, 16)
    assert [row["T"] for row in rows] == [16, 32, 64, 128]
    for row in rows:
        assert row["value"] == pytest.approx(8.0, abs=1e-6)
        assert row["n"] == 3
        assert row["high"] - row["low"] < 1e-5


def test_buckets_are_means_over_their_own_positions() -> None:
    assert list(language_model.buckets(16)) == [(0, 16), (16, 32), (32, 64), (64, 128)]

    def worse_with_position(tokens: torch.Tensor) -> tuple[torch.Tensor, None]:
        wanted = 1 + torch.arange(tokens.shape[1], dtype=torch.float64)  # nats at each position
        # Token 0 alone is ever asked for: give it the probability exp(-wanted), the rest shares what is left.
        rest = torch.log(-torch.expm1(-wanted)) - math.log(255)
        logits = rest[:, None].repeat(1, 256)
        logits[:, 0] = -wanted
        return logits[None].expand(tokens.shape[0], -1, -1), None

    class Model:
        context = None

        def __call__(self, tokens: torch.Tensor) -> Any:
            return worse_with_position(tokens)

    rows = language_model.bits_by_position(Model(), torch.zeros(2, 129).long(), 16)  # type: ignore[arg-type]
    means = [(start + 1 + end) / 2 / math.log(2) for start, end in language_model.buckets(16)]
    assert [row["value"] for row in rows] == pytest.approx(means, rel=1e-5)


def test_held_out_text_is_spread_evenly() -> None:
    text = bytes(i % 251 for i in range(1000))
    tokens = language_model.held_out(text, 4, 100)
    assert tokens.shape == (4, 100)
    assert bytes(tokens[0].tolist()) == text[:100]
    assert bytes(tokens[-1].tolist()) == text[900:]
    with pytest.raises(LongAtlasError, match="holds out 1000 bytes; 1001 are needed: give a longer text with --corpus"):
        language_model.held_out(text, 4, 1001)


def test_loss_counts_labelled_tokens_only() -> None:
    decoder = uniform()
    tokens = torch.randint(256, (2, 8), generator=generator())
    labels = torch.full((2, 8), -100)
    labels[0, 3] = 7
    assert labelled_loss(decoder, tokens, labels).item() == pytest.approx(math.log(256))


def hosts(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_hosts_are_trained_once_and_shared_by_retrofit_methods(tmp_path: Path) -> None:
    first = language_model.run(session(tmp_path))
    kept = hosts(tmp_path)
    assert len(kept) == 1
    assert next(iter(kept)).startswith("vanilla-")
    retrofit = {spec: language_model.run(session(tmp_path, spec)) for spec in ("yarn:factor=8", "passage_selection")}
    assert hosts(tmp_path) == kept
    assert language_model.run(session(tmp_path)) == first
    assert retrofit["yarn:factor=8"] != first
    assert len({row["value"] for row in first}) == 4
    assert all(3 < row["value"] < 8 for row in first), "better than chance"
    language_model.run(session(tmp_path, "alibi"))
    assert sorted(name.split("-")[0] for name in hosts(tmp_path)) == ["alibi", "vanilla"]


@pytest.mark.parametrize("change", [{"seed": 1}, {"steps": 2}, {"impl": "reference"}, {"content": "other text"}])
def test_hosts_are_kept_by_content(tmp_path: Path, change: dict[str, Any]) -> None:
    config = DecoderConfig(d_model=16, n_layers=1, n_heads=2)
    made = session(tmp_path, steps=1)
    tokens = torch.randint(256, (2, 9), generator=generator())

    def train(chosen: Session, content: str = "text") -> Decoder:
        return chosen.decoder(config, lambda: iter([(tokens, None)] * 9), lr=1e-3, content=content)

    before = train(made)
    again = train(made)
    assert len(hosts(tmp_path)) == 1
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), again.parameters(), strict=True))
    if "steps" in change:
        train(replace(made, settings={**made.settings, **change}))
    elif "content" in change:
        train(made, **change)
    else:
        train(replace(made, **change))
    assert len(hosts(tmp_path)) == 2


def test_diverged_training_is_no_host(tmp_path: Path) -> None:
    config = DecoderConfig(d_model=16, n_layers=1, n_heads=2)
    tokens, labels = torch.zeros(1, 4).long(), torch.full((1, 4), -100)  # no label: the mean of nothing is NaN
    with pytest.raises(UnsupportedError, match="training diverged: the loss became nan"):
        session(tmp_path, steps=2).decoder(config, lambda: iter([(tokens, labels)] * 2), lr=1e-3)
    assert hosts(tmp_path) == {}


@pytest.mark.parametrize("task", ["language_model", "mqar", "passkey"])
@pytest.mark.parametrize("method", ["vanilla", "passage_selection"])
def test_smoke_presets_run(tmp_path: Path, task: str, method: str) -> None:
    card = load_catalog().task(task)
    made = session(tmp_path, method, task)
    if (task, method) == ("mqar", "passage_selection"):
        with pytest.raises(UnsupportedError, match="a context method answers the last token only"):
            card.run(made)
        return
    rows = card.run(made)
    assert rows
    assert all(row["low"] <= row["value"] <= row["high"] and row["n"] > 0 and row["T"] > 0 for row in rows)
    assert len({(row["metric"], row["T"]) for row in rows}) == len(rows)


def test_mqar_scores_a_model_that_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Knows:
        def __call__(self, tokens: torch.Tensor) -> tuple[torch.Tensor, None]:
            answers = torch.zeros_like(tokens)
            for row, wanted in zip(tokens, answers, strict=True):
                for place, token in enumerate(row):
                    wanted[place] = row[min((row == token).int().argmax() + 1, len(row) - 1)]
            return torch.nn.functional.one_hot(answers, 32).float(), None

    made = session(tmp_path, task="mqar")
    monkeypatch.setattr(Session, "decoder", lambda *args, **kwargs: Knows())
    (row,) = mqar.run(made)
    assert (row["metric"], row["T"], row["value"], row["n"]) == ("accuracy", 16, 1.0, 2 * mqar.TESTED)
    monkeypatch.setattr(
        Session, "decoder", lambda *a, **k: lambda tokens: (torch.zeros(*tokens.shape, 32), SimpleNamespace())
    )
    assert mqar.run(made)[0]["value"] == 0.0
