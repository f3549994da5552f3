"""Rotary embedding as a product of complex numbers (arXiv:2104.09864, section 3.2), for the references."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from longatlas.slots import Rotate


def complex_rotation(angle: Callable[[int, int], float], *, magnitude: float = 1.0) -> Rotate:
    """Return rotate(q [B, T, H, D], k [B, T, H, D], pos [T]) -> (q, k), in fp64 inside.

    Dimensions i and i + D/2 are the real and the imaginary part of a complex number, which is multiplied by
    magnitude * exp(1j * angle(pos, i)); `angle` is in radians.
    """

    def rotate(q: Tensor, k: Tensor, pos: Tensor) -> tuple[Tensor, Tensor]:
        factors = _factors(angle, pos.tolist(), q.shape[-1] // 2, magnitude).to(q.device)
        return _multiply(q, factors), _multiply(k, factors)

    return rotate


def _factors(angle: Callable[[int, int], float], positions: Sequence[int], pairs: int, magnitude: float) -> Tensor:
    """[T, D/2], complex128."""
    rows = [[angle(position, i) for i in range(pairs)] for position in positions]
    table = torch.tensor(rows, dtype=torch.float64).view(len(positions), pairs)
    return torch.polar(torch.full_like(table, magnitude), table)


def _multiply(x: Tensor, factors: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    turned = torch.complex(x[..., :half].double(), x[..., half:].double()) * factors[None, :, None]
    return torch.cat([turned.real, turned.imag], -1).to(x.dtype)
