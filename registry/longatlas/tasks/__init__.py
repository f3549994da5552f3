"""The quality tasks. Data comes from a seed, never from a small fixed set; every method gets the same budget.

A task is a card (longatlas.Task, see longatlas.tasks.cards) whose `run(session)` trains decoders and returns rows:
dicts with metric, value, unit, T, and where they are known low, high, n and samples. A share of right answers is the
metric `accuracy`, best accompanied by a row `chance`. A plugin's task is written like the built-in ones:

    def run(session):
        config = DecoderConfig(vocab_size=16, d_model=session.settings["d_model"], train_length=64)

        def batches(seed):  # endless pairs of tokens [B, T] and labels [B, T], -100 = no label
            generator = torch.Generator().manual_seed(seed)
            while True:
                yield draw(session.settings["batch"], generator)

        def score(decoder, seed):  # the first row is what learning rates are chosen by
            tokens, labels = draw(256, torch.Generator().manual_seed(seed + 1_000_003))
            found = scores.right(decoder, tokens, labels)
            return [scores.share("accuracy", 64, int(found.sum()), len(found)), scores.chance(64, 16)]

        return session.sweep(Recipe(config, batches, "my_task"), score)

Settings of a preset that training reads: `steps`, the budget; `lrs`, learning rates; `seeds`, how many, all rates
with all seeds; `stop`, held-out accuracy at which a training ends early (none = never); `weight_decay` (0.01);
`tune_steps` (a fifth of `steps`) and `tune_lr` (the training's own) of a tuning with an "adapt" method. The rest is the
task's own; tasks with a host of their own shape take `conv`, the taps of the short convolution before a mixer.
`session.decoder(config, batches, lr=...)` trains one decoder without a sweep. A task that draws from a text gives it to
its Recipe, so that a method's sampler may draw from it (longatlas.tasks.sampling).

The rows that a sweep adds, and what low and high mean, are in longatlas.tasks.sweep.
"""

from __future__ import annotations

from collections.abc import Callable

from longatlas import Task, hookimpl
from longatlas.tasks.cards import TASKS


@hookimpl
def register_tasks(register: Callable[[Task], None]) -> None:
    for task in TASKS:
        register(task)
