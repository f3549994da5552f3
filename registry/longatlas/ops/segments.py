"""Segments of a sequence: they begin at multiples of N tokens from its start, wherever calls are cut."""

from __future__ import annotations

from longatlas.errors import LongAtlasError, UnsupportedError
from longatlas.slots import Here


def check_segments(here: Here, segment_len: int, method: str, *, has_state: bool) -> None:
    """What a method that counts segments of N tokens needs of a call.

    Raises LongAtlasError where a sequence begins, without a state, inside a segment, and UnsupportedError for a padded
    batch, whose rows would have segments of their own.
    """
    if not has_state and here.start % segment_len:
        raise LongAtlasError(
            f"a sequence begins at position {here.start} without a state, inside a segment of {segment_len} tokens of "
            f"{method}; begin at a multiple of them"
        )
    if here.positions.ndim > 1 or here.visible is not None:
        raise UnsupportedError(f"{method} reads rows of one length; use a batch of 1, or rows of equal length")
