"""The positional term of a tile, from products of queries and distances (arXiv:1901.02860, appendix B).

A tile n blocks off the diagonal has the distances (n - 1) block ... (n + 1) block: two blocks of them. Row r and column
c are r - c apart from n block, so that the product stands in the column (r - c) mod block of the upper block where
r >= c, else of the lower one. The lower block of a tile is the upper block of the next tile towards the diagonal.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from longatlas.kernels.primitives import load_tile, matmul


@triton.jit
def skewed(x, distance, BLOCK: tl.constexpr):
    """x[r, (r - c) mod BLOCK]: from columns that count distances to columns that count keys, and back.

    distance  of row 0 and column 0, a multiple of BLOCK: with it the index is made in each tile, not kept in registers
    """
    place = tl.arange(0, BLOCK)
    return tl.gather(x, ((place + distance)[:, None] - place[None, :]) & (BLOCK - 1), 1)


@triton.jit
def joined(upper, lower, distance, BLOCK: tl.constexpr):
    """`upper` where c <= r, else `lower`."""
    place = tl.arange(0, BLOCK)
    return tl.where((place + distance)[None, :] <= (place + distance)[:, None], upper, lower)


@triton.jit
def distance_products(
    q, first, heads, head, row, inside, rel_k, distance, last,
    FEATURES: tl.constexpr, PART: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(q + v)·rel_k of a block of distances [rows, distances]; all beyond row `last` share it."""
    total = tl.zeros([row.shape[0], distance.shape[0]], tl.float32)
    rows = tl.minimum(tl.maximum(distance, 0), last).to(tl.int64)
    every = distance >= distance
    for start in range(0, FEATURES, PART):
        columns = start + tl.arange(0, PART)
        query = load_tile(q, first, heads, head, row, inside, columns, FEATURES, FEATURES % PART != 0)
        key = load_tile(rel_k, 0, heads, head, rows, every, columns, FEATURES, FEATURES % PART != 0)
        total = matmul(query, tl.trans(key), total, PRECISION)
    return total
