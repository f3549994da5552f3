"""How a decoder is trained for a task: the same optimiser, schedule and budget of steps for every method."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from longatlas import losses
from longatlas.decoder.config import DecoderConfig
from longatlas.decoder.decoder import Decoder
from longatlas.errors import LongAtlasError, UnsupportedError
from longatlas.losses import NO_LABEL
from longatlas.slots import names

Batches = Iterator[tuple[Tensor, Tensor | None]]

HELD_OUT_SEED = 1_000_003  # added to a seed: data that training never draws
PLACES_SEED = 5 * HELD_OUT_SEED  # added to a seed: the places that a Position.draw takes
LAST_STEPS = 20  # the mean over them is told of losses made inside a model
PROBE_EVERY = 25  # steps between two looks at held-out batches
PROBES = 2  # held-out batches in a look
REACHED = 0.95


class DivergedError(UnsupportedError):
    """The loss stopped being a number."""


class Learner(Protocol):
    """What is trained: a decoder, or a module around one."""

    def loss(self, tokens: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None) -> Tensor:
        """The training loss on tokens [B, T]; labels [B, T] say what is asked for, -100 = nothing, None = all.

        generator  what is random in it is drawn from: see longatlas.Decoder.loss, which a module around one calls
        """

    def logits_at(self, tokens: Tensor, chosen: Tensor) -> Tensor:
        """Logits [n, V] at the n places of tokens [B, T] where bool chosen [B, T] is true."""


@dataclass(frozen=True)
class Recipe:
    """What a decoder is trained on.

    config   its shape
    batches  batches(seed) -> pairs of tokens [B, T] and labels [B, T]; a label stands where its answer is given,
             -100 = no label; labels None = the objective's own loss
    content  names what the batches are made of, beside the settings; tasks that draw alike share trained hosts
    wrap     decoder -> the Learner that is trained; without it the decoder itself
    text     uint8 [N]: the text that batches are drawn from, where a method's sampler may draw from it in their place
    """

    config: DecoderConfig
    batches: Callable[[int], Batches]
    content: str
    wrap: Callable[[Decoder], nn.Module] = lambda decoder: decoder
    text: Tensor | None = None


@dataclass(frozen=True)
class Record:
    """How a training went.

    steps        steps done, fewer than the budget where it was stopped early
    seconds      wall time
    steps_to_95  steps until held-out batches were first answered with 95% accuracy, looked at every 25 steps;
                 None = never, or nothing is labelled
    losses       the losses that modules added (longatlas.losses.add), by name: means over the last 20 steps
    tune_steps   steps of a tuning with an "adapt" method in the host, and tune_seconds its wall time; 0 = none was done
    fitted       seconds that calibrate took, by the spec under which the method was put in
    """

    steps: int
    seconds: float
    steps_to_95: int | None
    losses: Mapping[str, float] = field(default_factory=dict)
    tune_steps: int = 0
    tune_seconds: float = 0.0
    fitted: Mapping[str, float] = field(default_factory=dict)


class Trainer:
    """AdamW with a warm-up over a tenth of the steps, then a cosine to a tenth of the rate; gradients clipped at 1.

    After each step of the optimiser every module that has `after_step()` is called, without gradients.
    Weights that need no gradient stay as they are.
    """

    def __init__(
        self, learner: Any, batches: Batches, lr: float, steps: int, *, seed: int = 0, weight_decay: float = 0.01
    ) -> None:
        if not names(getattr(learner, "loss", print), "generator"):
            raise LongAtlasError(
                f"a learner is a {type(learner).__name__} without loss(tokens, labels=None, *, generator=None); call "
                "that of the decoder inside it"
            )
        self.learner, self.batches = learner, batches
        self.generator = torch.Generator().manual_seed(seed + PLACES_SEED)
        self.added: deque[dict[str, float]] = deque(maxlen=LAST_STEPS)
        self.parameters = [parameter for parameter in learner.parameters() if parameter.requires_grad]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=lr, weight_decay=weight_decay, betas=(0.9, 0.98))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, lambda step: _learning_rate(step, steps))

    def step(self) -> None:
        """One batch. Raises DivergedError when its loss is no number."""
        self.optimiser.zero_grad(set_to_none=True)
        tokens, labels = next(self.batches)
        with losses.collect() as added:
            loss = self.learner.loss(tokens, labels, generator=self.generator)
        if not math.isfinite(loss.item()):
            raise DivergedError(f"training diverged: the loss became {loss.item()}")
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.schedule.step()
        self.added.append({name: value.item() for name, value in added.items()})
        self._after_step()

    @torch.no_grad()
    def _after_step(self) -> None:
        for module in self.learner.modules():
            if callable(getattr(module, "after_step", None)):
                module.after_step()

    @property
    def losses(self) -> dict[str, float]:
        """The losses that modules added, each by its mean over those of the last steps in which it was added."""
        told = dict.fromkeys(name for step in self.added for name in step)
        return {name: fmean(step[name] for step in self.added if name in step) for name in told}


def train(learner: Any, batches: Callable[[int], Batches], lr: float, seed: int, settings: Mapping[str, Any]) -> Record:
    """Train for `settings["steps"]` steps, or until held-out accuracy reaches `settings["stop"]` where there is one.

    batches  as a Recipe's

    Raises DivergedError.
    """
    steps, stop = int(settings["steps"]), float(settings.get("stop", math.inf))
    decay = float(settings.get("weight_decay", 0.01))
    trainer = Trainer(learner, batches(seed), lr, steps, seed=seed, weight_decay=decay)
    probes = [batch for batch, _ in zip(batches(seed + HELD_OUT_SEED), range(PROBES), strict=False)]
    start, reached = time.perf_counter(), None
    for done in range(1, steps + 1):
        trainer.step()
        if done % PROBE_EVERY and done < steps:
            continue
        accuracy = _accuracy(learner, probes)
        if reached is None and accuracy >= REACHED:
            reached = done
        if accuracy >= stop:
            break
    trainer.optimiser.zero_grad(set_to_none=True)
    return Record(done, time.perf_counter() - start, reached, trainer.losses)


@torch.no_grad()
def _accuracy(learner: Learner, probes: list[tuple[Tensor, Tensor | None]]) -> float:
    """Share of the labels that are answered right; 0 where nothing is labelled."""
    right = []
    for tokens, labels in probes:
        if labels is not None:
            chosen = labels != NO_LABEL
            right.append(learner.logits_at(tokens, chosen).argmax(-1) == labels[chosen])
    return float(torch.cat(right).float().mean()) if right else 0.0


def _learning_rate(step: int, steps: int) -> float:
    """Linear warm-up over a tenth, then a cosine to a tenth."""
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
