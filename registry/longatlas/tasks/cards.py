"""The built-in tasks and their presets. Nothing here imports torch; a task's module does, when it is run.

smoke takes seconds, demo and quick minutes on one CPU thread; paper is the published setting, or what of it a decoder
of this size can follow, with the source beside it. `a>b` in an example: at token a the label is b.
"""

from __future__ import annotations

from collections.abc import Iterable

from longatlas.cards import Task
from longatlas.losses import METRIC
from longatlas.tasks.mad_cards import MAD
from longatlas.tasks.presets import SMALL, TINY, later, settings

# Metrics that tell how a sweep's trainings went, and the one that says what guessing would score.
ABOUT_TRAINING = (
    "best_lr",
    "steps",
    "steps_to_95",
    "train_seconds",
    "tune_steps",
    "tune_seconds",
    "calibrate_seconds",
    "diverged",
)


def about_training(metrics: Iterable[str]) -> list[str]:
    """Those of the metrics that tell how training went, each once."""
    known = dict.fromkeys(metrics)
    return [*(name for name in ABOUT_TRAINING if name in known), *(name for name in known if name.startswith(METRIC))]


CHANCE = "chance"

LANGUAGE_MODEL = Task(
    name="language_model",
    title="Byte-level language model",
    summary="Bits per byte of real text by position, up to sixteen times the training length; bits_per_byte_at_end, of "
    "the last 64 bytes at each position, compares methods that answer prompts only with all others.",
    run=later("language_model"),
    corpus=True,
    presets={
        "smoke": settings(
            d_model=32, layers=1, heads=2, length=32, reach=8, batch=8, steps=20, conv=0, lrs=(4e-3,), sequences=8
        ),
        "demo": settings(
            d_model=64, layers=2, heads=4, length=256, reach=8, batch=8, steps=200, conv=0, lrs=(4e-3,), sequences=16
        ),
        "quick": settings(
            d_model=64, layers=2, heads=4, length=256, reach=16, batch=8, steps=500, conv=0, lrs=(4e-3,), sequences=16
        ),
        # The 12-layer model for enwik8 of Transformer-XL (arXiv:1901.02860, Table 2, and its authors' script for it),
        # without dropout; give enwik8 with --corpus.
        "paper": settings(
            d_model=512,
            layers=12,
            heads=8,
            ffn=2048,
            length=512,
            reach=16,
            batch=22,
            steps=400_000,
            conv=0,
            lrs=(1.25e-4, 2.5e-4, 5e-4),
            seeds=2,
            sequences=64,
        ),
    },
    example="Trained on 256 bytes at a time; T = 1024 is the mean loss at bytes 513 to 1024 of held-out text, "
    "and at its end that at bytes 961 to 1024.",
)

MQAR = Task(
    name="mqar",
    title="Multi-query associative recall",
    summary="Recall of several key-value pairs seen earlier: what a state of a given size can hold.",
    paper="2312.04927",
    run=later("mqar"),
    presets={
        "smoke": settings(TINY, vocab=32, lengths=(16, 24), pairs=(2, 4), ffn=0),
        "demo": settings(SMALL, vocab=256, lengths=(64,), pairs=(4,), ffn=0, steps=200),
        "quick": settings(SMALL, vocab=256, lengths=(64, 128), pairs=(4, 16), ffn=0, steps=600),
        # Figure 2: two layers without MLP; 64 epochs of 100 000 sequences in batches of 256. The paper trains a model
        # for each number of pairs, here one model learns all three.
        "paper": settings(
            vocab=8192,
            lengths=(64, 128, 256),
            pairs=(4, 8, 16),
            ffn=0,
            heads=1,
            d_model=64,
            batch=256,
            steps=75_000,
            conv=0,
            lrs=(1e-4, 4.64e-4, 2.15e-3, 1e-2),
            seeds=2,
            stop=0.99,
            weight_decay=0.1,
            trials=3000,
        ),
    },
    example="`3 9 4 7 3>9 0 4>7 10 8 0 0 2`: 3 with 9 and 4 with 7; where a key comes again its value is asked.",
)

_PASSKEY = {
    "smoke": settings(TINY, length=32, test_lengths=(32, 64), heads=4, trials=2),
    "demo": settings(SMALL, length=128, test_lengths=(128, 256, 512), heads=4, steps=200, trials=4),
    "quick": settings(
        SMALL, length=128, test_lengths=(128, 256, 512, 1024), heads=4, ffn=0, batch=32, steps=400, trials=32
    ),
    # Lengths as in Figure 3 of the paper (to 32K). Its model is LLaMA 7B and its filler is prose; the small decoder and
    # the 64 tokens of this task are not.
    "paper": settings(
        length=512,
        test_lengths=(512, 2048, 8192, 32768),
        heads=8,
        d_model=256,
        layers=4,
        conv=0,
        batch=64,
        steps=20_000,
        lrs=(5e-4, 1e-3, 2e-3),
        seeds=2,
        trials=50,
    ),
}

PASSKEY = Task(
    name="passkey",
    title="Passkey retrieval",
    summary="A passkey hidden at ten depths and asked for at the end of the same call, at several lengths.",
    paper="2305.16300",
    run=later("passkey"),
    presets=_PASSKEY,
    example="`45 28 16 12 15 63 63 59 17>12 12>15`: 16 announces the passkey 12 15, and 17 asks for it.",
)

SEGMENT_PASSKEY = Task(
    name="segment_passkey",
    title="Segment-split passkey",
    summary="A passkey hidden at ten depths, asked for in a later call: what is carried across calls and lengths.",
    paper="2305.16300",
    run=later("segment_passkey"),
    presets=_PASSKEY,
    example="`45 28 16 12 15 63 63 59 17>12 12>15`: one call ends before 17, which asks for the passkey 12 15.",
)

INDUCTION = Task(
    name="induction",
    title="Induction heads",
    summary="What followed a mark is asked when the mark comes again, at up to 64 times the training length.",
    paper="2312.00752",
    run=later("induction"),
    presets={
        "smoke": settings(TINY, vocab=16, length=16, test_lengths=(16, 64)),
        "demo": settings(SMALL, vocab=16, length=64, test_lengths=(64, 256), steps=200, trials=64),
        "quick": settings(
            SMALL,
            vocab=16,
            length=64,
            test_lengths=(64, 128, 256, 512, 1024, 2048, 4096),
            batch=128,
            steps=800,
            trials=64,
        ),
        # Section 4.1.2 and appendix E.1, two layers of width 64, batches of 8, 25 epochs of 8192 steps.
        "paper": settings(
            vocab=16,
            length=256,
            test_lengths=(256, 512, 1024, 2048, 4096, 8192, 16384),
            d_model=64,
            batch=8,
            steps=204_800,
            conv=0,
            lrs=(2e-4, 1e-3),
            seeds=2,
            trials=128,
        ),
    },
    example="`4 3 0 2 1 7 6 3 4 7>6`: 7 is the mark, and 6 followed it.",
)

OVERWRITE_RECALL = Task(
    name="overwrite_recall",
    title="Overwrite recall",
    summary="Keys are bound to values twice and the last binding counts: whether a memory can correct itself.",
    paper="2102.11174",
    run=later("overwrite_recall"),
    presets={
        "smoke": settings(TINY, vocab=32, length=24, pairs=2, rounds=2, ffn=0),
        "demo": settings(SMALL, vocab=64, length=64, pairs=4, rounds=2, ffn=0, steps=200),
        # One layer: a second one can mark what is bound again, and then the rule that adds can do without correcting.
        "quick": settings(
            SMALL, vocab=64, length=64, pairs=4, rounds=2, ffn=0, layers=1, heads=1, steps=600, lrs=(1e-2,)
        ),
        # No paper has this task in this form; the rule is from section 4.2 of arXiv:2102.11174, the protocol is
        # Zoology's (arXiv:2312.04927, appendix E).
        "paper": settings(
            vocab=8192,
            length=64,
            pairs=4,
            rounds=2,
            ffn=0,
            heads=1,
            d_model=64,
            conv=0,
            batch=512,
            steps=12_500,
            lrs=(4.64e-4, 2.15e-3, 1e-2),
            seeds=2,
            stop=0.99,
            weight_decay=0.1,
            trials=3000,
        ),
    },
    example="`4 7 3 11 3 9 4 8 3>9 0 0 0 0 0 4>8 0`: 4 is bound to 7 and then to 8, so that 8 is right.",
)

TASKS = (LANGUAGE_MODEL, MQAR, PASSKEY, SEGMENT_PASSKEY, INDUCTION, OVERWRITE_RECALL, *MAD)
