"""All quality tasks alike: worked examples as drawn, smoke presets, and a trained softmax that beats chance."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import longatlas.tasks
from longatlas import DecoderConfig, UnsupportedError
from longatlas.catalog import load_catalog
from longatlas.tasks import induction, language_model, mad_draws, mqar, overwrite_recall, passkey, scores
from longatlas.tasks.cards import TASKS
from longatlas.tasks.session import Recipe

NAMES = [task.name for task in TASKS]
# Tasks that score more places than the last tokens of a prompt, which are all that a context method answers.
EVERYWHERE = {name for name in NAMES if name.startswith("mad_")} | {"mqar", "overwrite_recall"}

EXAMPLES: dict[str, Callable[[torch.Generator], tuple[Tensor, ...]]] = {
    "mqar": lambda g: mqar.draw(12, 12, 2, 1, g),
    "passkey": lambda g: passkey.draw(1, 10, 0.5, g),
    "segment_passkey": lambda g: passkey.draw(1, 10, 0.5, g),
    "induction": lambda g: induction.draw(8, 10, 1, g),
    "overwrite_recall": lambda g: overwrite_recall.draw({"vocab": 12, "length": 16, "pairs": 2, "rounds": 2}, 1, g),
    "mad_in_context_recall": lambda g: mad_draws.in_context_recall({"vocab": 8, "length": 12}, 1, g),
    "mad_noisy_recall": lambda g: mad_draws.noisy_recall(
        {"vocab": 8, "noise_vocab": 4, "noise": 0.3, "length": 12}, 1, g
    ),
    "mad_fuzzy_recall": lambda g: mad_draws.fuzzy_recall({"vocab": 6, "motif": 2, "length": 16}, 1, g),
    "mad_selective_copying": lambda g: mad_draws.selective_copying({"vocab": 8, "copied": 3, "length": 12}, 1, g),
    "mad_compression": lambda g: mad_draws.compression({"vocab": 8, "length": 6}, 1, g),
    "mad_memorisation": lambda g: mad_draws.memorisation({"vocab": 16, "length": 8}, 1, g),
}


def spelt(tokens: Tensor, labels: Tensor) -> str:
    """A sequence as the examples write it: a>b where token a has the label b."""
    pairs = zip(tokens[0].tolist(), labels[0].tolist(), strict=True)
    return " ".join(str(token) if label == -100 else f"{token}>{label}" for token, label in pairs)


@pytest.mark.parametrize("task", [task for task in TASKS if task.name != "language_model"], ids=lambda t: t.name)
def test_the_worked_example_is_what_is_drawn(task: Any) -> None:
    tokens, labels = EXAMPLES[task.name](torch.Generator().manual_seed(0))[:2]
    assert f"`{spelt(tokens, labels)}`" in task.example


def test_the_language_model_example_is_a_bucket() -> None:
    example = load_catalog().task("language_model").example
    start, end = list(language_model.buckets(256, 16))[2]
    assert f"T = {end} is the mean loss at bytes {start + 1} to {end}" in example
    assert f"at its end that at bytes {end - language_model.SCORED + 1} to {end}" in example


def test_every_task_has_every_preset() -> None:
    for task in TASKS:
        assert set(task.presets) == {"smoke", "demo", "quick", "paper"}
        for name, settings in task.presets.items():
            assert settings["lrs"], (task.name, name)
            assert settings["conv"] in (0, 3)
        assert len(task.presets["paper"]["lrs"]) * task.presets["paper"]["seeds"] >= 4


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ["vanilla", "linear_transformer", "passage_selection"])
def test_smoke_presets_run(name: str, method: str, make_session: Callable[..., Any]) -> None:
    task = load_catalog().task(name)
    session = make_session(name, method)
    if method == "passage_selection" and name in EVERYWHERE:
        with pytest.raises(UnsupportedError, match="a context method answers the last tokens only"):
            task.run(session)
        return
    rows = task.run(session)
    for row in rows:
        assert row["low"] <= row["value"] <= row["high"]
        assert row["n"] > 0
        assert row["T"] > 0
    assert len({(row["metric"], row["T"]) for row in rows}) == len(rows)
    metrics = {row["metric"] for row in rows}
    assert metrics >= {"best_lr", "steps", "train_seconds", "diverged"}
    assert metrics >= ({"bits_per_byte_at_end"} if name == "language_model" else {"accuracy", "chance"})


def test_a_trained_softmax_beats_chance(make_session: Callable[..., Any]) -> None:
    session = make_session("mad_in_context_recall", steps=300, batch=32, trials=128)
    rows = {row["metric"]: row for row in load_catalog().task("mad_in_context_recall").run(session)}
    assert rows["accuracy"]["low"] > 3 * rows["chance"]["value"]


def test_a_task_is_written_as_documented(make_session: Callable[..., Any]) -> None:
    """The example in the docstring of longatlas.tasks, run with a draw of its own."""
    source = textwrap.dedent(longatlas.tasks.__doc__.split("built-in ones:\n")[1].split("\nSettings of a preset")[0])

    def draw(batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        tokens = torch.randint(16, (batch, 64), generator=generator)
        return tokens, tokens

    names: dict[str, Any] = {
        "draw": draw,
        "torch": torch,
        "scores": scores,
        "DecoderConfig": DecoderConfig,
        "Recipe": Recipe,
    }
    exec(source, names)
    rows = {row["metric"]: row["value"] for row in names["run"](make_session("mqar"))}
    assert 0 <= rows["accuracy"] <= 1
    assert rows["chance"] == 1 / 16
    assert rows["steps"] == 20
