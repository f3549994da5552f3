"""Comparisons with words: every failure says what differs, by how much and what is allowed."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

EXACT = 1e-9  # allowed RMS ratio between two fp64 computations of the same thing


def rms_ratio(found: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference over that of `expected`; both are read in fp64."""
    difference, size = found.double() - expected.double(), expected.double()
    if difference.numel() == 0:
        return 0.0
    scale = size.square().mean().sqrt().clamp_min(1e-30)
    return float(difference.square().mean().sqrt() / scale)


def require(condition: bool, text: str) -> None:
    """Fail a check with `text` unless `condition` holds."""
    if not condition:
        raise AssertionError(text)


def require_close(found: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Fail unless shapes agree, all is finite and the RMS ratio is within `tolerance`."""
    require(found.shape == expected.shape, f"{what} has shape {list(found.shape)}, not {list(expected.shape)}")
    require(bool(torch.isfinite(found).all()), f"{what} is not finite everywhere")
    ratio = rms_ratio(found, expected)
    require(
        ratio <= tolerance,
        f"{what} differs by an RMS ratio of {ratio:.2e}; at most {tolerance:.0e} is allowed",
    )


def require_all_close(
    found: Iterable[tuple[str, Tensor]], expected: Iterable[tuple[str, Tensor]], tolerances: Iterable[float]
) -> None:
    """`require_close` for each named pair."""
    for (what, a), (_, b), tolerance in zip(found, expected, tolerances, strict=True):
        require_close(a, b, tolerance, what)
