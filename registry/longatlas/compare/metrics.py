"""In which direction a metric is better."""

from __future__ import annotations

from fnmatch import fnmatch

LESS, MORE = -1, 1

_DIRECTIONS = {
    "*_ms": LESS,
    "*_bytes": LESS,
    "bits_per_byte*": LESS,
    "perplexity*": LESS,
    "rms_error": LESS,
    "steps_to_95": LESS,
    "train_seconds": LESS,
    "diverged": LESS,
    "tokens_per_s": MORE,
    "accuracy*": MORE,
    "*_share": MORE,
}
# What follows from a time and a peak that was measured apart from it: the time itself is compared.
FOLLOWING = ("compute_share", "bandwidth_share")
# What a ratio to vanilla says nothing about: of one call, of the whole process, or of rounding.
OWN_MACHINES = ("compile_ms", "resident_peak_bytes", "rms_error", "flops", "moved_bytes")
# What `median` stands for in a rule: the medians of the timed phases.
MEDIANS = ("train_ms", "prefill_ms", "decode_ms")


def direction(metric: str) -> int:
    """LESS or MORE, or 0 where it is not known which is better."""
    return next((sign for pattern, sign in _DIRECTIONS.items() if fnmatch(metric, pattern)), 0)
