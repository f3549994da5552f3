"""Methodology: how each number is taken, in the words of what the code does."""

from __future__ import annotations

import streamlit as st

from longatlas import catalog
from longatlas_dashboard import marks, ui

SECTIONS = {
    "Cells": """
A plan is taken apart into cells: one method with its options, one measure, one phase or task, one T. A
cell's key is a hash of all that, of the method's source files, of the measuring code, and of the versions
and the machine. A finished cell is never measured again unless one of these changes; a change in a kernel
measures that method anew.

Cells run in a worker process, one at a time on a device, so that two timings never disturb each other.
Short lengths come first and methods take turns, so that a machine that drifts hurts all alike.
""",
    "Speed": """
`train` is a forward and a backward pass, `prefill` one forward pass over T tokens, `decode` one token with
a state of length T. Each is warmed up and then repeated until the 95% interval of the median is narrow or
the plan's `budget` of seconds is spent. The value is the median; the bars and the columns `low` and `high`
are its 95% interval. On a CPU this is the host's clock, with the number of threads recorded in every row.

The exponent beside a method is the slope of log(time) against log(T), by least squares over the lengths
measured, with its 95% interval. Short lengths, where fixed costs rule, pull it down: read it beside the
claimed one.
""",
    "Memory": """
Taken in a pass of its own, never while timing. `peak_bytes` is the most memory held by live tensors during
the phase. `state_bytes` is what is carried to the next call after a prefill of T tokens, found by walking
the state's tensors: measured, never declared.
""",
    "Quality": """
Every method is trained in the same small decoder with the same budget. `bits_per_byte` is that of a
byte-level language model on held-out text, by position bucket: the T of a row is the upper end of its bucket, at
1, 2, 4 ... 16 times the training length. Lower is better. Methods that need no training (`retrofit`) are put
into the decoder that was trained without them. The other tasks report `accuracy` between 0 and 1, with what
guessing would score as `chance`.

A preset trains every learning rate with every seed, all for the same number of steps, and reports the rate with the
best mean (`best_lr`). Where it has several seeds, the interval of a value is the least and the greatest of them; with
one seed it is the 95% interval of the evaluation. `steps_to_95` counts the steps until unseen sequences were first
answered with 95% accuracy, and is missing where that never happened. `diverged` counts trainings whose loss became no
number. Some presets stop a training once unseen sequences are answered with 99.5%: `steps` says how many were done.
""",
    "What is never done": """
No time is reported for an implementation whose check against its reference failed: its row says
`incorrect`. A cell that fails is a row with its status and reason, a cross above the plots,
and a line in the table of failures. Rows of different machines, devices, dtypes, threads or cases are never
drawn into one plot.
""",
}


def page() -> None:
    ui.header("Methodology", "How each number on these pages is taken.")
    for title, words in SECTIONS.items():
        ui.section(title)
        st.markdown(words)
    ui.section("Statuses")
    st.markdown("\n".join(f"- `{name}` {glyph} {words}" for name, (glyph, words) in marks.STATUSES.items()))
    _tasks()
    ui.section("Add a method", "A package of about 25 lines; it then appears on every page.")
    st.code(
        "longatlas new my_method --slot attention --family efficient_attention/sparse/fixed_patterns\n"
        "longatlas verify my_method",
        language="bash",
    )


def _tasks() -> None:
    tasks = catalog.load_catalog().tasks
    if tasks:
        ui.section("Tasks")
    for task in tasks.values():
        with st.expander(ui.plain(task.title)):
            st.text(task.summary)
            if task.example:
                st.code(task.example, language=None, wrap_lines=True)


page()
