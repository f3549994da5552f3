"""What a task works with: trains hosts, keeps them by content, and puts the measured method into them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch

from longatlas.cards import Task
from longatlas.catalog import load_catalog
from longatlas.combination import Combination, parse_spec
from longatlas.decoder.config import DecoderConfig
from longatlas.decoder.decoder import Decoder
from longatlas.errors import LongAtlasError, UnsupportedError
from longatlas.tasks.corpus import Corpus, corpus_digest, load_corpus
from longatlas.tasks.stages import Stage
from longatlas.tasks.sweep import Row, Trial, sweep
from longatlas.tasks.training import Batches, Recipe, Record

__all__ = ["Batches", "Recipe", "Session", "open_session"]


class Trained(NamedTuple):
    """A learner ready to be evaluated, and how it was trained."""

    learner: Any
    record: Record


@dataclass(frozen=True)
class Session:
    """One task on one method.

    settings  the preset's values
    corpus    path of the text, "" = the standard library's source; None = the card of the task does not declare one
    digest    of that text when the cell was made, "" = not known
    cache     folder where trained hosts are kept
    task      the task's name
    """

    combination: Combination
    impl: str
    device: str
    dtype: torch.dtype
    seed: int
    settings: Mapping[str, Any]
    corpus: str | None
    cache: str
    task: str = ""
    digest: str = ""

    def text(self) -> Corpus:
        """The text to train on and the one held out.

        Raises LongAtlasError where the card of the task does not declare it, or the text is another by now: the numbers
        would stand under the name of the other one.
        """
        if self.corpus is None:
            raise LongAtlasError(
                f"task '{self.task}' reads a text, and its card does not say so; give its longatlas.Task corpus=True, "
                "so that the text is part of what is measured"
            )
        if self.digest and corpus_digest(self.corpus) != self.digest:
            raise LongAtlasError(f"corpus '{self.corpus}' was changed after the run had begun; run it again")
        return load_corpus(self.corpus)

    def sweep(
        self, recipe: Recipe, score: Callable[[Any, int], list[Row]], *, lower_is_better: bool = False
    ) -> list[Row]:
        """Train with every learning rate of `settings["lrs"]` and `settings["seeds"]` seeds; the best rate's rows.

        score  score(learner, seed) -> rows; the first is what rates are chosen by

        See longatlas.tasks.sweep for what the rows say. Raises UnsupportedError when every training diverges, and
        LongAtlasError when the preset lacks `lrs` or `steps`.
        """
        self._check_preset()

        def trial(lr: float, seed: int) -> Trial:
            learner, record = self.trained(recipe, lr, seed)
            return Trial(record, score(learner, seed))

        return sweep(self.settings["lrs"], self.seeds, trial, lower_is_better=lower_is_better)

    def _check_preset(self) -> None:
        for name, such_as in (("lrs", "(1e-3, 3e-3)"), ("steps", "500")):
            value = self.settings.get(name)
            if not value:
                raise LongAtlasError(
                    f"a preset of task '{self.task}' has {name}={value!r}; a sweep needs some, such as {such_as}: "
                    "give them in the task's presets"
                )

    @property
    def seeds(self) -> range:
        """The seeds of weights and data, the same for every method."""
        return range(self.seed, self.seed + int(self.settings.get("seeds", 1)))

    def decoder(
        self, config: DecoderConfig, batches: Callable[[], Batches], *, lr: float, content: str = ""
    ) -> Decoder:
        """The method in one trained decoder, ready to be evaluated, without a sweep.

        batches  makes pairs of tokens [B, T] and labels [B, T] (-100 = no label; None = the objective's own loss)
        content  names what the batches are made of, beside the settings and the seed; "" = the task's name

        Raises UnsupportedError when training diverges.
        """
        made = Recipe(config, partial(seedless, batches), content)
        decoder: Decoder = self.trained(made, lr, self.seed).learner
        return decoder

    def trained(self, recipe: Recipe, lr: float, seed: int) -> Trained:
        """The method in a decoder trained with one learning rate and seed; see longatlas.tasks.stages.

        Methods with the same host share it. Raises DivergedError when training diverges.
        """
        made = self.stage(recipe, lr, seed).made()
        return Trained(made.learner.to(self.dtype).eval(), made.record)

    def stage(self, recipe: Recipe, lr: float, seed: int) -> Stage:
        """The measured model, with all that is trained before it."""
        stage = None
        for combination in self.combination.stages:
            stage = Stage(self, recipe, lr, seed, combination, stage)
        assert stage is not None
        return stage


def seedless(batches: Callable[[], Batches], seed: int) -> Batches:
    """Batches that no seed draws, as a Recipe takes them."""
    return batches()


def open_session(cell: Mapping[str, Any], cache: str) -> tuple[Task, Session]:
    """The task of a quality cell (a mapping of its fields) and a session for it.

    Raises UnsupportedError when the task has no such preset.
    """
    task = load_catalog().task(cell["phase"])
    preset = cell["case"]["preset"]
    if preset not in task.presets:
        raise UnsupportedError(f"task '{task.name}' has no preset '{preset}'; it has: {', '.join(task.presets)}")
    session = Session(
        combination=parse_spec(cell["method"]),
        impl=cell["impl"],
        device=cell["device"],
        dtype=getattr(torch, cell["dtype"]),
        seed=cell["seed"],
        settings={**task.presets[preset]},
        corpus=cell["case"].get("corpus"),
        digest=cell["case"].get("corpus_digest", ""),
        cache=cache,
        task=task.name,
    )
    return task, session


def quality_of(cell: Mapping[str, Any], cache: str) -> list[Row]:
    """All rows of a quality cell (a mapping of its fields)."""
    task, session = open_session(cell, cache)
    rows: list[Row] = task.run(session)
    return rows


def text_digest(text: bytes) -> str:
    """Content hash of a text, for a recipe's `content`."""
    return hashlib.sha256(text).hexdigest()
