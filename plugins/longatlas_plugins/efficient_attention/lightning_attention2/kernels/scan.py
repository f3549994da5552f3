"""The scan: chunks of one piece of a sequence in order, the state S in registers (arXiv:2401.04658, algorithm 1).

    out_i = scale (Σ_{j<=i} λ^(i-j) (x_i·y_j) z_j + λ^(i+1) x_i S_0),    S_n = λ^n S_0 + Σ_j λ^(n-1-j) y_j^T z_j

With x, y, z = q, k, v it is the output; with do, v, k it is dq. Backwards in time (REVERSE) with S the gradient of the
state, v, do, q give dk and k, q, do give dv: the same sums, but a token reads λ^(n-1-i) S and writes λ^(j+1), because
the gradient of a state does not decay before the last token that wrote it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from longatlas.kernels import launch
from longatlas.kernels.primitives import DERIVED, PRECISION, load_tile, matmul, rounded, store_tile
from longatlas_plugins.efficient_attention.lightning_attention2.kernels.pieces import Pieces
from longatlas_plugins.efficient_attention.lightning_attention2.kernels.tiles import Tiles


@triton.jit
def power(rate, exponent):
    """λ^exponent = exp(-rate exponent) where exponent >= 0, else 0; the mask comes before exp."""
    return tl.where(exponent >= 0, tl.exp(-rate * tl.maximum(exponent, 0)), 0.0)


@triton.jit
def state_offsets(
    item, head, heads, features, columns, y_size: tl.constexpr, z_size: tl.constexpr, SWAPPED: tl.constexpr
):
    """Offsets [features, columns] into states [items, H, Y, Z], or [items, H, Z, Y] when SWAPPED."""
    start = (item * heads + head) * y_size * z_size
    if SWAPPED:
        return start + columns[None, :] * y_size + features[:, None]
    return start + features[:, None] * z_size + columns[None, :]


@triton.jit(do_not_specialize=["heads"])
def scan_kernel(
    x,
    y,
    z,
    out,
    rates,
    pieces,
    state_before,
    state_after,
    scale,
    out_part,
    heads,
    y_size: tl.constexpr,
    z_size: tl.constexpr,
    CHUNK: tl.constexpr,
    FEATURES: tl.constexpr,
    COLUMNS: tl.constexpr,
    REVERSE: tl.constexpr,
    SWAPPED: tl.constexpr,
    DERIVED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One piece, head, block of columns and part of the features; the outputs of parts lie `out_part` elements apart.

    x, y [tokens, H, Y]; z, out [tokens, H, Z]; pieces [n, 2]: first token and end
    """
    item = (tl.program_id(0) // heads).to(tl.int64)
    head = (tl.program_id(0) % heads).to(tl.int64)
    first, end = tl.load(pieces + 2 * item), tl.load(pieces + 2 * item + 1)
    rate = tl.load(rates + head)
    place = tl.arange(0, CHUNK)
    part = tl.program_id(2)
    features = part * FEATURES + tl.arange(0, FEATURES)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    in_state = (features[:, None] < y_size) & (columns[None, :] < z_size)
    at = state_offsets(item, head, heads, features, columns, y_size, z_size, SWAPPED)

    state = tl.zeros([FEATURES, COLUMNS], tl.float32)
    if state_before is not None:
        state = tl.load(state_before + at, mask=in_state, other=0.0)
    distance = (place[None, :] - place[:, None]) if REVERSE else (place[:, None] - place[None, :])
    within = power(rate, distance) * scale
    if out is not None:
        out += part.to(tl.int64) * out_part
    chunks = tl.cdiv(end - first, CHUNK)
    for index in range(chunks):
        start = first + (chunks - 1 - index if REVERSE else index) * CHUNK
        length = tl.minimum(end - start, CHUNK).to(tl.int32)
        rows = place < length
        block_y = load_tile(y, start, heads, head, place, rows, features, y_size, y_size % FEATURES != 0)
        block_z = load_tile(z, start, heads, head, place, rows, columns, z_size, z_size % COLUMNS != 0)
        if out is not None:
            block_x = load_tile(x, start, heads, head, place, rows, features, y_size, y_size % FEATURES != 0)
            read = power(rate, length - 1 - place) if REVERSE else power(rate, place + 1) * scale
            block_out = matmul(block_x.to(DERIVED), rounded(state, DERIVED), PRECISION=PRECISION) * read[:, None]
            scores = matmul(block_x, tl.trans(block_y), PRECISION=PRECISION) * within
            block_out = matmul(rounded(scores, DERIVED), block_z.to(DERIVED), block_out, PRECISION)
            store_tile(out, block_out, start, heads, head, place, rows, columns, z_size, z_size % COLUMNS != 0)
        write = power(rate, place + 1) * scale if REVERSE else power(rate, length - 1 - place)
        weighted = rounded(block_z.to(tl.float32) * write[:, None], DERIVED)
        state = matmul(tl.trans(block_y).to(DERIVED), weighted, state * power(rate, length), PRECISION)
    if state_after is not None:
        tl.store(state_after + at, state, mask=in_state)


def scan(
    x: Tensor | None,
    y: Tensor,
    z: Tensor,
    rates: Tensor,
    pieces: Pieces,
    tiles: Tiles,
    *,
    scale: float,
    out: Tensor | None = None,
    state_before: Tensor | None = None,
    state_after: Tensor | None = None,
    reverse: bool = False,
    swapped: bool = False,
) -> None:
    """Fill `out` and `state_after`; each may be None.

    x, y           [..., H, Y], tokens of all sequences one after the other; x None where out is
    z, out         [..., H, Z]
    rates          decay [H], fp32
    states         [pieces, H, Y, Z] fp32; [pieces, H, Z, Y] when `swapped`
    """
    heads, y_size, z_size = y.shape[-2], y.shape[-1], z.shape[-1]
    parts = triton.cdiv(y_size, tiles.features)
    outs = out if out is None or parts == 1 else out.new_empty(parts, *out.shape, dtype=torch.float32)
    launch(
        scan_kernel,
        (pieces.count * heads, triton.cdiv(z_size, tiles.columns), parts),
        x=x,
        y=y,
        z=z,
        out=outs,
        rates=rates,
        pieces=pieces.ranges,
        state_before=state_before,
        state_after=state_after,
        scale=float(scale),
        out_part=0 if out is None else out.numel(),
        heads=heads,
        y_size=y_size,
        z_size=z_size,
        CHUNK=tiles.chunk,
        FEATURES=tiles.features,
        COLUMNS=tiles.columns,
        REVERSE=reverse,
        SWAPPED=swapped,
        DERIVED=DERIVED[y.dtype],
        PRECISION=PRECISION[y.dtype],
        warps=tiles.warps,
        stages=tiles.stages,
    )
    if out is not None and outs is not None and parts > 1:
        torch.sum(outs, 0, out=out)
