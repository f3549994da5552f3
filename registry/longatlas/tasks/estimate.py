"""What a quality cell would take, found out by a few of its own training steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from statistics import median
from typing import Any

from longatlas.decoder.config import DecoderConfig
from longatlas.decoder.decoder import Decoder
from longatlas.tasks.session import Session, open_session, seedless
from longatlas.tasks.stages import Stage
from longatlas.tasks.sweep import Row
from longatlas.tasks.training import Batches, Recipe, Trainer

MOST_STEPS = 4
ENOUGH_SECONDS = 2.0  # of steps; a step that takes longer is timed alone


def seconds(cell: Mapping[str, Any], cache: str) -> float:
    """Seconds that the trainings of a quality cell would take here, at most.

    cell   a mapping of the cell's fields
    cache  folder of trained hosts; those that are there cost nothing

    A few steps of each training, tuning and teacher at the preset's shape are timed and multiplied by steps, learning
    rates and seeds. An early stop makes it less; calibration, and testing what was trained, are not counted. Raises
    UnsupportedError where the task cannot be run at all.
    """
    task, session = open_session(cell, cache)
    estimator = _Estimator(**{f.name: getattr(session, f.name) for f in fields(Session)})
    task.run(estimator)
    return sum(estimator.foreseen)


@dataclass(frozen=True)
class _Estimator(Session):
    """A session that times a few steps where the other one trains; `foreseen` collects the seconds."""

    foreseen: list[float] = field(default_factory=list)

    def sweep(
        self, recipe: Recipe, score: Callable[[Any, int], list[Row]], *, lower_is_better: bool = False
    ) -> list[Row]:
        self._foresee(recipe, [(lr, seed) for lr in self.settings["lrs"] for seed in self.seeds])
        return []

    def decoder(
        self, config: DecoderConfig, batches: Callable[[], Batches], *, lr: float, content: str = ""
    ) -> Decoder:
        recipe = Recipe(config, partial(seedless, batches), content)
        self._foresee(recipe, [(lr, self.seed)])
        decoder = self.stage(recipe, lr, self.seed).untrained()
        assert isinstance(decoder, Decoder)
        return decoder.to(self.dtype).eval()

    def _foresee(self, recipe: Recipe, trainings: list[tuple[float, int]]) -> None:
        missing = {stage.path: stage for pair in trainings for stage in self.stage(recipe, *pair).missing()}
        alike: dict[tuple[str, DecoderConfig], list[Stage]] = {}
        for stage in missing.values():
            alike.setdefault((stage.combination.spec, stage.recipe.config), []).append(stage)
        self.foreseen.extend(_step_seconds(same[0]) * sum(stage.steps for stage in same) for same in alike.values())


def _step_seconds(stage: Stage) -> float:
    """The median of a few steps, so that a slow first one does not count."""
    trainer = Trainer(stage.untrained(), stage.batches(stage.seed), stage.rate, stage.steps)
    taken = list[float]()
    while len(taken) < MOST_STEPS and sum(taken) < ENOUGH_SECONDS:
        start = time.perf_counter()
        trainer.step()
        taken.append(time.perf_counter() - start)
    return median(taken)
