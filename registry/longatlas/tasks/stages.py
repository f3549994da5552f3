"""From an untrained decoder to the method that is measured: what is trained, tuned and fitted on the way.

    train     parts of a combination that say so are trained with the model; vanilla is, where none does: the host
    adapt     parts that say so are put into the host, and all weights or only the new ones are tuned (Method.tunes)
    retrofit  parts that say so are put in last, as they are

A tuning has `tune_steps` steps, a fifth of `steps` unless the preset says otherwise, at the rate `tune_lr`, that of the
host unless the preset says otherwise. A part with a `calibrate` is fitted to what it is put into:

    calibrate(decoder, batches, **options) -> options

    decoder   the trained decoder without the part, in eval mode; a copy, with which it may do what it likes
    batches   of pairs (tokens [B, T], labels [B, T] or None) that training never draws
    options   those of the method's options that it names

What it returns are options of the method, under which it is put in; an option that the spec gives keeps its value.
Trained and tuned weights and the fitted options are kept by content, so nothing is done twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from longatlas.combination import Combination, Part, taken
from longatlas.decoder.decoder import Decoder
from longatlas.decoder.teacher import give_random_teacher, teacher_of
from longatlas.errors import LongAtlasError
from longatlas.identity import Code, counted, facts
from longatlas.tasks import hosts
from longatlas.tasks.loading import freeze_all_but, load
from longatlas.tasks.sampling import batches_of
from longatlas.tasks.training import HELD_OUT_SEED, Batches, Recipe, Record, train

if TYPE_CHECKING:
    from longatlas.tasks.session import Session

TUNING_SEED = 7 * HELD_OUT_SEED  # added to a seed: a tuning draws other batches than the host's training
TUNED_SHARE = 5  # of the host's steps, one in so many
# Settings that say which trainings are done, or how a trained decoder is tested, but not what it is trained on.
NOT_TRAINED_BY = frozenset(
    ("lr", "lrs", "seeds", "trials", "test_lengths", "sequences", "reach", "tune_steps", "tune_lr")
)


class Made(NamedTuple):
    """A learner with trained weights in fp32, what stands in it (options fitted), and how that came about."""

    learner: nn.Module
    combination: Combination
    record: Record


@dataclass(frozen=True)
class Stage:
    """One of the models on the way.

    combination  what stands in the decoder
    lr, seed     of the host's training
    before       what its weights start from; None = they are random, and this is the host
    """

    session: Session
    recipe: Recipe
    lr: float
    seed: int
    combination: Combination
    before: Stage | None

    @cached_property
    def entering(self) -> tuple[Part, ...]:
        """The parts that are put in here."""
        if self.before is None:
            return ()
        return tuple(part for part in self.combination.parts if part not in self.before.combination.parts)

    @property
    def trains(self) -> bool:
        """Whether weights are trained or tuned here."""
        return self.before is None or any(part.method.training == "adapt" for part in self.entering)

    @property
    def steps(self) -> int:
        """Of the training or tuning."""
        settings = self.session.settings
        if self.before is None:
            return int(settings["steps"])
        steps = int(settings.get("tune_steps", max(1, int(settings["steps"]) // TUNED_SHARE)))
        if steps < 1:
            raise LongAtlasError(
                f"a preset of task '{self.session.task}' has tune_steps={steps}; a tuning takes at least 1, or leave "
                "it out for a fifth of the steps"
            )
        return steps

    @property
    def rate(self) -> float:
        """The learning rate of the training or tuning."""
        return self.lr if self.before is None else float(self.session.settings.get("tune_lr", self.lr))

    @cached_property
    def teacher(self) -> Stage | None:
        """The trained model that the objective learns from."""
        made = teacher_of(self.combination, self.recipe.config)
        if made is None:
            return None
        session = replace(self.session, combination=made[0], impl="auto")
        return session.stage(replace(self.recipe, config=made[1]), self.lr, self.seed)

    @cached_property
    def path(self) -> Path:
        """Where the weights are kept."""
        return hosts.path_of(self.session.cache, self.combination.name, self._facts)

    def missing(self) -> Iterator[Stage]:
        """The trainings and tunings that are still to be done for this one, in their order."""
        if self.trains and hosts.read(self.path) is not None:
            return
        if self.before is not None:
            yield from self.before.missing()
        if self.trains:
            yield from self.teacher.missing() if self.teacher else ()
            yield self

    def made(self) -> Made:
        """The model, from what is kept or made now.

        Raises DivergedError, and LongAtlasError where the host's weights do not fit or a calibration goes wrong.
        """
        fitted, told = self._fitted()
        learner = self._build(fitted)
        if self.trains:
            record = self._weights(learner)
        else:
            assert self.before is not None
            before = self.before.made()
            self._put_in(learner, before.learner.state_dict())
            record = before.record
        return Made(learner, fitted, replace(record, fitted={**record.fitted, **told}))

    def untrained(self) -> nn.Module:
        """A learner that can be trained here, with random weights, to see what a step takes."""
        learner = self._build(self.combination)
        if self.before is not None:
            self._put_in(learner, self.before.untrained().state_dict())
        give_random_teacher(decoder_in(learner))
        return learner

    def batches(self, seed: int) -> Batches:
        """What is trained on."""
        return self._batches(self.combination.sampler)(seed)

    def _batches(self, sampler: Part | None) -> Callable[[int], Batches]:
        batch = int(self.session.settings.get("batch", 1))
        return batches_of(self.recipe, sampler, batch=batch, steps=self.steps, device=self.session.device)

    def _build(self, combination: Combination) -> nn.Module:
        """An untrained learner; the seed gives its weights."""
        torch.manual_seed(self.seed)
        return self.recipe.wrap(Decoder(self.recipe.config, combination, impl=self._impl)).to(self.session.device)

    @property
    def _impl(self) -> str:
        return self.session.impl if self.combination is self.session.combination else "auto"

    def _weights(self, learner: nn.Module) -> Record:
        """Give a learner its trained weights."""
        kept = hosts.read(self.path)
        if kept is not None:
            learner.load_state_dict(kept[0])
            return Record(**{name: kept[1][name] for name in Record.__dataclass_fields__})
        before = self.before.made() if self.before else None
        lacked = self._put_in(learner, before.learner.state_dict()) if before else []
        record = self._train(learner, before.record if before else None)
        told = {**self._facts, **asdict(record), "lacked": lacked, "versions": facts(self.session.device)}
        hosts.write(self.path, learner.state_dict(), told)
        return record

    def _train(self, learner: nn.Module, host: Record | None) -> Record:
        if self.teacher is not None:
            decoder_in(learner).learn_from(self.teacher.made().learner)
        settings = {**self.session.settings, "steps": self.steps}
        if host is None:
            return train(learner, self.batches, self.rate, self.seed, settings)
        tuned = train(learner, self.batches, self.rate, self.seed + TUNING_SEED, settings)
        return replace(host, tune_steps=tuned.steps, tune_seconds=tuned.seconds, losses=tuned.losses)

    def _put_in(self, learner: nn.Module, weights: hosts.Weights) -> list[str]:
        """Load the host's weights, and freeze them where only new ones are tuned; the names of what the host lacked."""
        lacked = load(learner, weights, self.combination.spec, exactly=not self.trains)
        if self.trains and all(part.method.tunes == "new" for part in self.entering):
            freeze_all_but(learner, lacked, self.combination.spec)
        return lacked

    def _fitted(self) -> tuple[Combination, dict[str, float]]:
        """The combination with fitted options; the spec of each fitted part with the seconds that it took."""
        fitted = {id(part): self._calibrated(part) for part in self.entering if part.method.calibrate}
        if not fitted:
            return self.combination, {}
        parts = tuple(fitted[id(part)][0] if id(part) in fitted else part for part in self.combination.parts)
        return Combination(parts), {part.spec: seconds for part, seconds in fitted.values()}

    def _calibrated(self, part: Part) -> tuple[Part, float]:
        assert self.before is not None
        source = Code().of_training(Combination((part,)), self.recipe.batches, load)
        known = {"fitted": part.spec, "to": self.before.path.name, "source": source}
        path = hosts.path_of(self.session.cache, f"{part.method.name}-fitted", known)
        kept = hosts.read(path)
        if kept is None:
            start = time.perf_counter()
            told: dict[str, Any] = {"given": self._calibrate(part, self.before.made().learner.eval())}
            told["seconds"] = time.perf_counter() - start
            hosts.write(path, {}, {**known, **told})
        else:
            told = kept[1]
        return Part(part.method, part.method.resolve_options({**part.options, **told["given"]})), told["seconds"]

    def _calibrate(self, part: Part, host: nn.Module) -> dict[str, Any]:
        calibrate, method = part.method.calibrate, part.method
        assert calibrate is not None
        batches = self._batches(part if method.sampler else None)(self.seed + HELD_OUT_SEED)
        given = calibrate(decoder_in(host), batches, **taken(calibrate, part.options))
        try:
            if not isinstance(given, Mapping):
                raise LongAtlasError(f"{given!r}; it must return a mapping of the method's options")
            resolved = method.resolve_options(given)
        except LongAtlasError as error:
            raise LongAtlasError(f"calibrate of method '{method.name}' returned {error}") from None
        return {name: resolved[name] for name in given if name not in part.changed}

    @property
    def _called(self) -> tuple[Callable[..., Any], ...]:
        """Functions that the weights depend on beside the methods' own."""
        drawn = (batches_of,) if self.combination.sampler and self.recipe.text is not None else ()
        tuned = (load,) if self.before else ()
        return self.recipe.batches, self.recipe.wrap, *drawn, *tuned

    @cached_property
    def _facts(self) -> dict[str, Any]:
        """Everything that the weights depend on."""
        session, recipe = self.session, self.recipe
        return {
            "method": self.combination.spec,
            "options": self.combination.options,
            "impl": self.combination.resolve_impl(self._impl, session.device) if self._impl == "auto" else self._impl,
            "device": session.device,
            "config": asdict(recipe.config),
            "content": recipe.content or session.task,
            "settings": {k: v for k, v in session.settings.items() if k not in NOT_TRAINED_BY},
            "training": [self.rate, self.steps, self.before.path.name if self.before else ""],
            "teacher": self.teacher.path.name if self.teacher else "",
            "lr": self.lr,
            "seed": self.seed,
            "source": Code().of_training(self.combination, *self._called),
            "who": counted(facts(session.device), session.device),
        }


def decoder_in(learner: nn.Module) -> Decoder:
    """The decoder of a learner: itself, or inside a task's module around one."""
    return next(module for module in learner.modules() if isinstance(module, Decoder))
