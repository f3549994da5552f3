"""The cards of the six MAD skills (arXiv:2403.17844)."""

from __future__ import annotations

from typing import Any

from longatlas.cards import Task
from longatlas.tasks.presets import SMALL, TINY, later, settings


def _mad(skill: str, title: str, summary: str, example: str, **sizes: Any) -> Task:
    """The card of a MAD skill; `sizes` are those of the authors' baseline, which quick keeps but for the length."""
    quick = settings(sizes, length=min(128, sizes["length"]))
    short = settings(sizes, length=32, **({"copied": 4} if "copied" in sizes else {}))
    return Task(
        name=f"mad_{skill}",
        title=title,
        summary=summary,
        paper="2403.17844",
        run=later("mad", skill),
        presets={
            "smoke": settings(TINY, **short),
            "demo": settings(SMALL, **quick, steps=150),
            "quick": settings(SMALL, **quick, steps=600),
            # The authors' configuration (athms/mad-lab): two blocks of mixer and SwiGLU, width 128, 16 heads, batches
            # of 128, 200 epochs of 12 800 sequences, three learning rates.
            "paper": settings(
                sizes,
                d_model=128,
                heads=16,
                batch=128,
                steps=20_000,
                conv=0,
                lrs=(1e-4, 5e-4, 1e-3),
                seeds=2,
                weight_decay=0.0,
                trials=1280,
            ),
        },
        example=example,
    )


MAD = (
    _mad(
        "in_context_recall",
        "MAD: in-context recall",
        "Values of keys that came before, all along a sequence of pairs.",
        "`0 7 3 7 1 7 0>7 7 3>7 7 3>7 7`: 0, 1 and 3 are keys; where one comes again its value is asked.",
        vocab=16,
        length=128,
    ),
    _mad(
        "noisy_recall",
        "MAD: noisy in-context recall",
        "In-context recall with pairs of noise in between.",
        "`0 7 3 7 10 11 11 10 8 9 3>7 7`: 8 to 11 are noise.",
        vocab=16,
        noise_vocab=16,
        noise=0.2,
        length=128,
    ),
    _mad(
        "fuzzy_recall",
        "MAD: fuzzy in-context recall",
        "In-context recall where keys and values are one to three tokens long.",
        "`5 1 2 3 1>2 2>3 3 0 4 3 1 0 2 0>4 4>3 3`: the value of 1 is 2 3, and that of 0 is 4 3.",
        vocab=16,
        motif=3,
        length=128,
    ),
    _mad(
        "selective_copying",
        "MAD: selective copying",
        "Data tokens scattered among blanks, to be given back in order.",
        "`2 3 6 6 6 6 6 5 7 6>2 6>3 6>5`: 6 is a blank, and 7 asks for the data.",
        vocab=16,
        copied=16,
        length=256,
    ),
    _mad(
        "compression",
        "MAD: compression",
        "A whole sequence read off the last token's state, by place.",
        "`4>4 3>3 0>0 2>2 1>1 7>7`: all of it is read off the state of 7 by a small MLP.",
        vocab=16,
        length=32,
    ),
    _mad(
        "memorisation",
        "MAD: memorisation",
        "A fixed mapping from keys to values, learnt into the weights.",
        "`4 15>9 3 15>10 0 15>11 2 15>12`: 15 asks for the value of the key before it.",
        vocab=256,
        length=32,
    ),
)
