"""Methodology: how each number is taken, in the words of what the code does."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from longatlas import catalog
from longatlas_dashboard import marks, safe, ui

SECTIONS = {
    "Cells": """
A plan is taken apart into cells: one method with its options, one measure, one phase or task, one level, one T. A
cell's key is a hash of all that, of the method's source files and what they import of their own package, of the
measuring code, and of the versions and the machine. A finished cell is never measured again unless one of these
changes; a change in a kernel measures that method anew.

Every method has a worker process of its own, with limits on time, memory, output and file size. The engine never
touches a device. One timing runs at a time on a device: a second run waits and says for whom.
""",
    "Correctness first": """
Before a worker measures anything it compares the implementation with the method's reference, in fp64 and in the
cell's dtype: outputs, state and every gradient; and it sees that no output depends on a later token. Where they differ
the cell is `incorrect` and has no time. `rms_error`, beside each time, is the largest RMS difference from the fp64
reference found by that comparison.
""",
    "Speed": """
`train` is a forward and a backward pass on a fresh graph, `prefill` one forward pass over T tokens, `decode` one token
with a state of T tokens. The level is `operation` (q, k and v to o), `layer` (one block with its norms, projections and
feed-forward part) or `decoder` (all layers with embedding and head).

Each time names its policy:

- `wall`: the host's clock, launch overhead included, the device waited for before and after. The policy of a CPU.
- `gpu_cold`: device events, the L2 cache flushed before each repetition.
- `gpu_hot`: the replay of a CUDA graph, without launch overhead, caches warm.

The first call is apart: how much longer it took than the median is `compile_ms`. The methods of one phase, level and T
are then sampled in turns, a slice of the budget each, in an order drawn anew for each round, so that a machine that
drifts hurts all alike; a short run is repeated once, unrecorded, before each slice. Samples are taken until the 95%
interval of the median is narrower than 2% of it, or the plan's `budget` of seconds is spent; at least five. The value
is the median, the bars and the columns `low` and `high` are its 95% interval from order statistics (below six samples
their range), and every sample is kept. Threads are pinned and recorded in every row.

The exponent beside a method is the slope of log(time) against log(T), by least squares over the lengths measured, with
its 95% interval by Student's t. Short lengths, where fixed costs rule, pull it down: read it beside the claimed one.
""",
    "Roofline": """
What the machine can do is measured on it, per device, dtype and number of threads: one matrix product gives
`peak_flops`, one copy `peak_bandwidth`. A cell's FLOPs come from the method's formula, which counts what the
mathematics needs (visible pairs only) and is checked against torch's own counter; its bytes are the least that must
move: inputs, weights, state and outputs, each once. `compute_share` and `bandwidth_share` are the time that each of
them would take at the peak over the time measured; the larger one is the bound that is nearer.
""",
    "One value of several": """
Results keeps every row; plots, fits and tables beside them take one value for each method, phase, metric and T. When a
method's source has changed they take what was measured since, and say so. Of a method that was measured in several
implementations (or under several policies) they take the one that you choose, at first the one with most lengths. Of
several seeds they take the median, of quality the mean; the interval reaches from the least end of theirs to the
greatest.
""",
    "Memory": """
Taken in a pass of its own, never while timing, by counting live tensors at every operation, the same way on a CPU and
on a GPU. `peak_bytes` is the most that the phase had made and still held at once; `saved_bytes` what forward kept for
backward; `state_bytes` what is carried to the next call after a prefill of T tokens, found by walking the state's
tensors: measured, never declared; `workspace_bytes` the peak less what was saved and what the phase leaves behind.
`weight_bytes` and `input_bytes` were there before; a budget, on Home and on Memory, must hold them too, and before a
decode the state. `resident_peak_bytes` is the worker's peak resident size, Python and
torch included; on a GPU `allocated_peak_bytes` is what the allocator had handed out at most, less the start.
""",
    "Quality": """
Every method is trained in the same small decoder, on the same batches, with the same budget of steps, for each of a
preset's learning rates and seeds. The rate with the best mean is reported (`best_lr`): the value is the mean over its
seeds, `low` and `high` are the least and the greatest of them; with a single seed they are the 95% interval of the
evaluation. `steps_to_95` counts the steps until unseen sequences were first answered with 95% accuracy; it is missing
where that never happened. `diverged` counts trainings whose loss became no number. Some presets stop a training once
unseen sequences are answered with 99.5%: `steps` says how many were done.

`bits_per_byte` is that of a byte-level language model on held-out text, by position bucket: the T of a row is the upper
end of its bucket, in multiples of the training length. `bits_per_byte_at_end` is that of the last 64 bytes of each
bucket alone: all that a method has which answers prompts only, so it compares with every other. Lower is better.
Methods that need no training (`retrofit`) are put into the decoder that was trained without them; after some (`adapt`)
it is tuned for a fifth as many steps (`tune_steps`). A method may be fitted to the trained decoder first: its options
then stand beside `calibrate_seconds`. `loss_` begins the losses that a method adds inside the model. The other tasks
report `accuracy` between 0 and 1, and as `chance` what guessing gives.
""",
    "What is never done": """
No time is reported for an implementation whose check against its reference failed: its row says
`incorrect`. A cell that fails is a row with its status and reason, a cross above the plots,
and a line in the table of failures. Rows of different machines, devices, dtypes, threads or cases are never
drawn into one plot, and numbers that others published are never mixed with measured ones.
""",
}

GLOSSARY = {
    "T": "tokens of a sequence",
    "B, H, D": "sequences at once, heads, size of a head",
    "W, N, M, C": "window, segment, memory and chunk, in tokens",
    "spec": "a method with its options, or several joined by +: yarn:factor=4+sliding_window",
    "slot": "a part of the decoder that a method replaces: position, memory, attention, mixer, ffn, model, context, "
    "objective",
    "impl": "a way to compute the same method: reference (fp64, from the paper), torch, triton",
    "retrofit": "a method that goes into a model trained without it",
    "adapt": "a method that goes into a model trained without it, which is tuned then",
    "verified": "compared with its reference on this machine, in outputs, states and gradients, before any time of it",
    "exact": "a method that computes what vanilla attention computes, by another way",
    "state": "what is carried from one call to the next: caches, memories, sums",
    "prefill": "one forward pass over T tokens; decode is one token after T",
    "cell": "one measurement of a plan, finished once and kept",
    "setting": "machine, device, dtype, threads and case: only numbers of one setting are drawn together",
    "case": "batch, heads, head size and layers, or a task's preset and corpus",
    "level": "operation (q, k and v to o), layer, or decoder",
    "effective length": "the greatest T up to which accuracy stays above a threshold at every measured length",
    "frontier": "the methods that no other beats in cost and in quality at once",
    "influence": "the size of the gradient of output i by input token j",
}


def page() -> None:
    ui.header("Methodology", "How each number on these pages is taken.")
    for title, words in SECTIONS.items():
        ui.section(title)
        st.markdown(words)
    ui.section("Statuses")
    st.markdown("\n".join(f"- `{name}` {glyph} {words}" for name, (glyph, words) in marks.STATUSES.items()))
    _tasks()
    ui.section("Glossary")
    ui.table(pd.DataFrame(GLOSSARY.items(), columns=["word", "meaning"]), height=420)
    ui.section("Add a method", "A package of about 25 lines; it then appears on every page.")
    st.code(
        "longatlas new my_method --slot attention --family efficient_attention/sparse/fixed_patterns\n"
        "longatlas verify my_method",
        language=None,
    )


def _tasks() -> None:
    tasks = catalog.load_catalog().tasks
    if tasks:
        ui.section("Tasks")
    for task in tasks.values():
        with st.expander(safe.plain(task.title)):
            st.text(task.summary)
            if task.example:
                st.code(task.example, language=None, wrap_lines=True)


page()
