"""Rotary embedding as a product of complex numbers (arXiv:2104.09864, section 3.2), for the references."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from longatlas.slots import Rotate


def complex_rotation(angle: Callable[[int, int], float], pairs: int, *, magnitude: float = 1.0) -> Rotate:
    """Return rotate(q [B, T, H, D], k [B, T, H, D], pos [T] or [B, T]) -> (q, k), in fp64 inside.

    Of n pairs, dimensions i and i + n are the real and the imaginary part of a complex number, which is multiplied by
    magnitude * exp(1j * angle(pos, i)); `angle` is in radians. Dimensions beyond 2n stay as they are.
    """

    def rotate(q: Tensor, k: Tensor, pos: Tensor) -> tuple[Tensor, Tensor]:
        factors = _factors(angle, pos.flatten().tolist(), pairs, magnitude).view(*pos.shape, 1, pairs).to(q.device)
        return _multiply(q, factors), _multiply(k, factors)

    return rotate


def _factors(angle: Callable[[int, int], float], positions: Sequence[int], pairs: int, magnitude: float) -> Tensor:
    """[T, D/2], complex128."""
    rows = [[angle(position, i) for i in range(pairs)] for position in positions]
    table = torch.tensor(rows, dtype=torch.float64).view(len(positions), pairs)
    return torch.polar(torch.full_like(table, magnitude), table)


def _multiply(x: Tensor, factors: Tensor) -> Tensor:
    """x [B, T, H, D]; factors [T, 1, n] or [B, T, 1, n]."""
    n = factors.shape[-1]
    turned = torch.complex(x[..., :n].double(), x[..., n : 2 * n].double()) * factors
    return torch.cat([turned.real, turned.imag, x[..., 2 * n :].double()], -1).to(x.dtype)
