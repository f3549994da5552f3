"""The trainer, sweeps of learning rates and seeds, trained hosts on disk, and estimates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from longatlas import Decoder, DecoderConfig, LongAtlasError, UnsupportedError
from longatlas.harness.cells import expand
from longatlas.harness.plan import Plan
from longatlas.tasks import estimate, hosts, language_model
from longatlas.tasks.session import Session
from longatlas.tasks.sweep import Trial, sweep
from longatlas.tasks.training import PROBE_EVERY, DivergedError, Recipe, Record, train

CONFIG = DecoderConfig(vocab_size=8, d_model=16, n_layers=1, n_heads=2)


def copies(seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Every token is its own label: learnt in a few steps."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        tokens = torch.randint(8, (16, 8), generator=generator)
        yield tokens, tokens


def nothing(seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """No label anywhere: the loss is the mean of nothing, NaN."""
    while True:
        yield torch.zeros(2, 4).long(), torch.full((2, 4), -100)


COPY = Recipe(CONFIG, copies, "copies")


def files(session: Session) -> dict[str, int]:
    folder = Path(session.cache)
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} if folder.exists() else {}


def test_loss_counts_labelled_places_only() -> None:
    decoder = Decoder(CONFIG)
    torch.nn.init.zeros_(decoder.core.head.weight)  # type: ignore[union-attr, arg-type]
    tokens, labels = torch.randint(8, (2, 8)), torch.full((2, 8), -100)
    labels[0, 3] = 7
    assert decoder.loss(tokens, labels).item() == pytest.approx(math.log(8))


@pytest.mark.parametrize("method", ["vanilla", "int8_weights"])
def test_logits_at_chosen_places_are_those_of_the_whole_call(method: str) -> None:
    decoder = Decoder(CONFIG, method)
    tokens = torch.randint(8, (3, 10))
    chosen = torch.rand(3, 10) < 0.4
    torch.testing.assert_close(decoder.logits_at(tokens, chosen), decoder(tokens)[0][chosen])


def test_training_stops_early_and_tells_when_95_percent_were_reached() -> None:
    torch.manual_seed(0)
    settings = {"steps": 40 * PROBE_EVERY, "stop": 0.999}
    record = train(Decoder(CONFIG), copies, 1e-2, 0, settings)
    assert record.steps < settings["steps"]
    assert record.steps_to_95 is not None
    assert record.steps_to_95 % PROBE_EVERY == 0
    assert record.steps_to_95 <= record.steps
    torch.manual_seed(0)
    assert train(Decoder(CONFIG), copies, 1e-2, 0, {"steps": 3}).steps_to_95 is None


def test_the_same_seed_gives_every_method_the_same_batches(make_session: Any) -> None:
    seen: dict[str, list[torch.Tensor]] = {}
    for spec in ("vanilla", "alibi"):

        def watched(seed: int, spec: str = spec) -> Any:
            for tokens, labels in copies(seed):
                seen.setdefault(spec, []).append(tokens)
                yield tokens, labels

        make_session("mqar", spec, steps=5).trained(Recipe(CONFIG, watched, "watched"), 1e-3, 3)
    assert len(seen["vanilla"]) == len(seen["alibi"]) > 5
    assert all(torch.equal(a, b) for a, b in zip(seen["vanilla"], seen["alibi"], strict=True))


def trial_of(scores: dict[tuple[float, int], float], to_95: dict[int, int | None]) -> Callable[[float, int], Trial]:
    def trial(lr: float, seed: int) -> Trial:
        if math.isnan(scores[lr, seed]):
            raise DivergedError("training diverged: the loss became nan")
        row = {"metric": "accuracy", "unit": "share", "T": 64, "value": scores[lr, seed], "low": 0, "high": 1, "n": 9}
        return Trial(Record(100 + seed, 2.0, to_95.get(seed)), [row])

    return trial


def test_the_best_rate_is_reported_with_the_spread_of_its_seeds() -> None:
    scores = {(1e-3, 0): 0.5, (1e-3, 1): 0.6, (1e-2, 0): 0.9, (1e-2, 1): 0.4, (1e-1, 0): 1.0, (1e-1, 1): math.nan}
    rows = {
        row["metric"]: row
        for row in sweep((1e-3, 1e-2, 1e-1), (0, 1), trial_of(scores, {0: 50, 1: 75}), lower_is_better=False)
    }
    accuracy = rows["accuracy"]
    assert accuracy["value"] == pytest.approx(0.65)
    assert (accuracy["low"], accuracy["high"], accuracy["n"]) == (0.4, 0.9, 2)
    assert accuracy["samples"] == [0.9, 0.4]
    assert rows["best_lr"]["value"] == 1e-2, "a rate at which a seed diverged comes last"
    assert rows["diverged"]["value"] == 1
    assert (rows["steps_to_95"]["value"], rows["steps_to_95"]["low"], rows["steps_to_95"]["high"]) == (62.5, 50, 75)
    assert rows["steps"]["value"] == 100.5
    lower = sweep((1e-3, 1e-2), (0, 1), trial_of(scores, {0: 50}), lower_is_better=True)
    assert {row["metric"]: row["value"] for row in lower}["best_lr"] == 1e-3
    assert "steps_to_95" not in {row["metric"] for row in lower}, "one seed never got there"


def test_one_seed_keeps_the_interval_of_its_evaluation() -> None:
    (accuracy, *_) = sweep((1e-3,), (0,), trial_of({(1e-3, 0): 0.5}, {}), lower_is_better=False)
    assert (accuracy["low"], accuracy["value"], accuracy["high"], accuracy["n"]) == (0, 0.5, 1, 9)


def test_a_sweep_in_which_all_diverge_is_unsupported(make_session: Any) -> None:
    session = make_session("mqar", lrs=(1e-3, 1e-2), seeds=2)
    with pytest.raises(UnsupportedError, match=r"diverged with every seed at every learning rate \(0.001, 0.01\)"):
        session.sweep(Recipe(CONFIG, nothing, "nothing"), lambda learner, seed: [])
    assert files(session) == {}


@pytest.mark.parametrize(("name", "value"), [("lrs", ()), ("steps", 0)])
def test_a_preset_without_rates_or_steps_is_refused(name: str, value: Any, make_session: Any) -> None:
    with pytest.raises(LongAtlasError, match=f"a preset of task 'mqar' has {name}=.*; a sweep needs some, such as"):
        make_session("mqar", **{name: value}).sweep(COPY, lambda learner, seed: [])


def test_a_plugins_task_may_train_one_decoder(make_session: Any) -> None:
    session = make_session("mqar", steps=200)
    decoder = session.decoder(CONFIG, lambda: copies(0), lr=1e-2)
    tokens = torch.randint(8, (2, 8))
    assert (decoder(tokens)[0].argmax(-1) == tokens).float().mean() > 0.9
    assert session.decoder(CONFIG, lambda: copies(0), lr=1e-2)(tokens)[0].equal(decoder(tokens)[0])
    with pytest.raises(UnsupportedError, match="training diverged: the loss became nan"):
        session.decoder(CONFIG, lambda: nothing(0), lr=1e-2, content="nothing")


def test_hosts_are_trained_once_and_shared_by_retrofit_methods(make_session: Any) -> None:
    first = language_model.run(make_session("language_model"))
    kept = files(make_session("language_model"))
    assert [name.split("-")[0] for name in kept] == ["vanilla"]
    yarn, _ = (
        language_model.run(make_session("language_model", spec)) for spec in ("yarn:factor=8", "passage_selection")
    )
    assert files(make_session("language_model")) == kept
    assert language_model.run(make_session("language_model")) == first, "records are kept with the weights"
    assert yarn[3]["value"] != first[3]["value"]
    language_model.run(make_session("language_model", "alibi"))
    assert sorted(name.split("-")[0] for name in files(make_session("language_model"))) == ["alibi", "vanilla"]


CHANGES: list[Callable[[Session], tuple[Session, Recipe, float, int]]] = [
    lambda session: (replace(session, settings={**session.settings, "steps": 3}), COPY, 1e-3, 0),
    lambda session: (replace(session, impl="reference"), COPY, 1e-3, 0),
    lambda session: (session, replace(COPY, content="other"), 1e-3, 0),
    lambda session: (session, replace(COPY, config=replace(CONFIG, short_conv=3)), 1e-3, 0),
    lambda session: (session, COPY, 2e-3, 0),
    lambda session: (session, COPY, 1e-3, 1),
]


@pytest.mark.parametrize("change", CHANGES)
def test_hosts_are_kept_by_content(change: Any, make_session: Any) -> None:
    session = make_session("mqar", steps=2)
    before, again = (session.trained(COPY, 1e-3, 0).learner for _ in range(2))
    assert len(files(session)) == 1
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), again.parameters(), strict=True))
    other, *training = change(session)
    other.trained(*training)
    assert len(files(session)) == 2


def test_how_a_host_is_tested_does_not_matter_to_it(make_session: Any) -> None:
    for changed in ({"trials": 5}, {"lrs": (1e-3, 1e-2)}, {"seeds": 4}):
        session = make_session("mqar", **{"steps": 2, **changed})
        session.trained(COPY, 1e-3, 0)
        assert len(files(session)) == 1


def test_a_host_says_what_it_is(make_session: Any) -> None:
    session = make_session("mqar", "alibi", steps=2)
    session.trained(COPY, 1e-3, 4)
    (path,) = Path(session.cache).iterdir()
    assert path.name.startswith("alibi-")
    assert path.suffix == ".safetensors"
    with safe_open(path, "pt") as file:
        header = file.metadata()
    assert (header["method"], header["lr"], header["seed"], header["steps"]) == ('"alibi"', "0.001", "4", "2")
    assert {"settings", "config", "versions", "steps_to_95", "seconds", "checksum"} <= set(header)


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip(data: bytes) -> bytes:
    return data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]


@pytest.mark.parametrize("damage", [cut, flip, lambda data: b"", lambda data: b"{}" * 9])
def test_a_damaged_host_is_trained_again(damage: Callable[[bytes], bytes], make_session: Any) -> None:
    session = make_session("mqar", steps=2)
    wanted = session.trained(COPY, 1e-3, 0).learner.state_dict()
    (path,) = Path(session.cache).iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert hosts.read(path) is None
    again = session.trained(COPY, 1e-3, 0).learner.state_dict()
    assert all(torch.equal(wanted[name], again[name]) for name in wanted)
    assert hosts.read(path) is not None


def test_an_unfinished_host_is_not_taken_for_one(make_session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session("mqar", steps=2)
    monkeypatch.setattr(hosts.os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError("the disk is full")))
    with pytest.raises(OSError, match="the disk is full"):
        session.trained(COPY, 1e-3, 0)
    assert len(list(session.stage(COPY, 1e-3, 0).missing())) == 1


@pytest.mark.parametrize("task", ["mqar", "language_model"])
def test_estimates_count_what_is_not_trained_yet(task: str, tmp_path: Path) -> None:
    (cell,) = expand(Plan(methods=("yarn",), measure=("quality",), tasks=(task,), preset="smoke"))
    fields = asdict(cell)
    foreseen = estimate.seconds(fields, str(tmp_path))
    assert 0 < foreseen < 60
    session_task, session = estimate.open_session(fields, str(tmp_path))
    session_task.run(session)
    assert estimate.seconds(fields, str(tmp_path)) == 0.0
    with pytest.raises(UnsupportedError, match=f"task '{task}' has no preset 'huge'; it has: smoke"):
        estimate.seconds({**fields, "case": {**fields["case"], "preset": "huge"}}, str(tmp_path))


def test_an_estimate_is_steps_times_rates_times_seeds(make_session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "_step_seconds", lambda stage: 0.5)
    session = make_session("mqar", steps=10, lrs=(1e-3, 1e-2), seeds=3)
    estimator = estimate._Estimator(**{name: getattr(session, name) for name in Session.__dataclass_fields__})
    assert estimator.sweep(COPY, lambda learner, seed: []) == []
    session.trained(COPY, 1e-2, 1)
    estimator.sweep(COPY, lambda learner, seed: [])
    estimator.decoder(CONFIG, lambda: copies(0), lr=1e-3)
    assert estimator.foreseen == [0.5 * 10 * 6, 0.5 * 10 * 5, 0.5 * 10]
