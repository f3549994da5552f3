"""Words that plans, cells, rows and pages share. Each list of them stands here once; nothing heavy is imported."""

from __future__ import annotations

import re
from dataclasses import dataclass

BASELINE = "vanilla"  # what others are compared with

PHASES = ("train", "prefill", "decode")
LEVELS = ("operation", "layer", "decoder")
DEVICES = ("cpu", "cuda")
DTYPES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}  # bytes of one number
POLICIES = ("wall", "gpu_cold", "gpu_hot")
PRESETS = ("smoke", "demo", "quick", "paper")

OK, OOM, TIMEOUT, CRASH = "ok", "oom", "timeout", "crash"
UNSUPPORTED, INCORRECT, SKIPPED = "unsupported", "incorrect", "skipped"


@dataclass(frozen=True)
class Status:
    """How a cell ended.

    measured     it has numbers
    ends_series  it was too much for the machine, and a longer T would be more so
    is_fault     something is broken: the method's code, or its agreement with its reference
    """

    name: str
    measured: bool = False
    ends_series: bool = False
    is_fault: bool = False


STATUSES = {
    status.name: status
    for status in (
        Status(OK, measured=True),
        Status(OOM, ends_series=True),
        Status(TIMEOUT, ends_series=True),
        Status(CRASH, is_fault=True),
        Status(UNSUPPORTED),
        Status(INCORRECT, is_fault=True),
        Status(SKIPPED, ends_series=True),
    )
}
FAILED = tuple(status.name for status in STATUSES.values() if not status.measured)
ENDING = tuple(status.name for status in STATUSES.values() if status.ends_series)

_ARXIV = re.compile(r"\d{4}\.\d{4,5}(v\d+)?|[a-z-]+(\.[A-Z]{2})?/\d{7}(v\d+)?")


def is_arxiv(text: str) -> bool:
    """Whether a text is an arXiv id, of the new form (2312.04927v2) or the old one (cs.LG/0501001)."""
    return _ARXIV.fullmatch(text) is not None


def arxiv_address(number: str) -> str:
    """Where the paper with an arXiv id can be read."""
    return f"https://arxiv.org/abs/{number}"
