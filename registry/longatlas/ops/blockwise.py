"""Causal softmax attention by blocks: skips what a mask_mod hides, never holds a T x S matrix."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from longatlas.errors import LongAtlasError
from longatlas.ops.layout import Block, Positions, is_range, layout
from longatlas.ops.masks import indices, visible
from longatlas.ops.reference import dense_attention
from longatlas.slots import MaskMod, ScoreMod

IMPLS = ("auto", "torch", "reference")
# Above this many mask or score elements in all blocks together, training recomputes them in the backward pass.
REMATERIALISE_ABOVE = 1 << 22


class Mods(NamedTuple):
    mask: MaskMod
    score: ScoreMod | None


def causal(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    """The plain mask_mod: a query sees every key up to its own position."""
    return kv_idx <= q_idx


def blockwise_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask_mod: MaskMod | None = None,
    score_mod: ScoreMod | None = None,
    q_positions: Tensor | None = None,
    k_positions: Tensor | None = None,
    scale: float | None = None,
    block_size: int = 128,
    impl: str = "auto",
) -> Tensor:
    """Softmax attention over the keys that causality and `mask_mod` leave visible, block by block.

    q [B, T, H, D]; k [B, S, Hkv, D]; v [B, S, Hkv, E]; returns o [B, T, H, E]. H is a multiple of Hkv.
    mask_mod(b, h, q_idx, kv_idx) and score_mod(score, b, h, q_idx, kv_idx) have FlexAttention's signatures; the
    indices are positions, by default 0 ... S-1 for keys and the last T of them for queries. Gradients flow to q, k, v
    and to what the mods capture. A query that sees no key gets 0.

    A score_mod with the attribute `additive = True` promises score + f(b, h, q_idx, kv_idx) and is run as a bias, which
    is quicker. `block_size` is the number of queries worked on at once. `impl` is "auto" or "torch" (this algorithm),
    or "reference" (the whole score matrix).

    Raises LongAtlasError where shapes, positions, `block_size` or `impl` do not fit.
    """
    _check_shapes(q, k, v)
    if impl not in IMPLS or block_size < 1:
        raise LongAtlasError(
            f"impl is {impl!r}, block_size {block_size}; impl must be one of {', '.join(IMPLS)}, block_size at least 1"
        )
    queries, keys = q.shape[1], k.shape[1]
    if q_positions is None:
        q_positions = torch.arange(keys - queries, keys, device=q.device)
    if k_positions is None:
        k_positions = torch.arange(keys, device=q.device)
    if len(q_positions) != queries or len(k_positions) != keys:
        raise LongAtlasError(
            f"q_positions has {len(q_positions)} places for {queries} queries, k_positions {len(k_positions)} for "
            f"{keys} keys; give one place for each"
        )
    if impl == "reference":
        return dense_attention(
            q,
            k,
            v,
            mask_mod=mask_mod,
            score_mod=score_mod,
            q_positions=q_positions,
            k_positions=k_positions,
            scale=scale,
        )
    if queries == 0 or keys == 0:
        return q.new_zeros(*q.shape[:3], v.shape[3])
    groups = q.shape[2] // k.shape[2]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 2), v.repeat_interleave(groups, 2)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # [B, H, T, D]
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    mods = Mods(mask_mod or causal, score_mod)
    positions = Positions(q_positions, k_positions, is_range(k_positions) and is_range(q_positions))
    if _is_plain(mods, positions):
        o = functional.scaled_dot_product_attention(q, k, v, is_causal=queries > 1, scale=scale)
    else:
        o = _run(q, k, v, mods, positions, scale, layout(mods.mask, positions, q.shape[0], q.shape[1], block_size))
    return o.transpose(1, 2)


def _is_plain(mods: Mods, positions: Positions) -> bool:
    """Whether one fused call does it: causal attention of a whole sequence, or one query that sees every key."""
    if mods.mask is not causal or mods.score is not None:
        return False
    if len(positions.q) == 1:
        return bool((positions.k <= positions.q).all())
    return positions.ranges and len(positions.q) == len(positions.k) and bool(positions.q[0] == positions.k[0])


def _check_shapes(q: Tensor, k: Tensor, v: Tensor) -> None:
    shapes = f"q {list(q.shape)}, k {list(k.shape)}, v {list(v.shape)}"
    if not q.ndim == k.ndim == v.ndim == 4:
        raise LongAtlasError(f"{shapes}: expected q [B, T, H, D], k [B, S, Hkv, D], v [B, S, Hkv, E]")
    same = q.shape[0] == k.shape[0] and q.shape[3] == k.shape[3] and k.shape[:3] == v.shape[:3]
    if not same or q.shape[2] % k.shape[2]:
        raise LongAtlasError(f"{shapes}: batch, key length, D and heads must agree, and H must be a multiple of Hkv")


def _run(
    q: Tensor, k: Tensor, v: Tensor, mods: Mods, positions: Positions, scale: float, blocks: list[Block]
) -> Tensor:
    area = sum((block.rows.stop - block.rows.start) * block.keys for block in blocks)
    remat = torch.is_grad_enabled() and area * (q.shape[1] if mods.score else 1) > REMATERIALISE_ABOVE
    outputs = []
    for block in blocks:
        inputs = (q[:, :, block.rows], k, v, mods, positions._replace(q=positions.q[block.rows]), scale, block)
        if remat:
            outputs.append(checkpoint(_attend, *inputs, use_reentrant=False, preserve_rng_state=False))
        else:
            outputs.append(_attend(*inputs))
    return torch.cat(outputs, 2)


def _attend(q: Tensor, k: Tensor, v: Tensor, mods: Mods, positions: Positions, scale: float, block: Block) -> Tensor:
    """One block of queries [B, H, Tq, D] against the runs of keys it sees."""
    if not block.runs:
        return q.new_zeros(*q.shape[:3], v.shape[3]) + 0 * (q.sum() + k.sum() + v.sum())
    k, v, places = block.pick(k, 2), block.pick(v, 2), block.pick(positions.k, 0)
    seen = block.seen
    if seen is None and not block.all:
        seen = visible(mods.mask, positions.q, places, q.shape[0], q.shape[1])
    if mods.score is None:
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale)
    where = indices(positions.q, places, q.shape[0], q.shape[1])
    if getattr(mods.score, "additive", False):
        bias = mods.score(q.new_zeros(()), *where).to(q.dtype)
        bias = bias if seen is None else bias.masked_fill(~seen, float("-inf"))
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    scores = (q @ k.transpose(2, 3)).to(torch.promote_types(q.dtype, torch.float32)) * scale
    return _softmax(mods.score(scores, *where), seen).to(v.dtype) @ v


def _softmax(scores: Tensor, seen: Tensor | None) -> Tensor:
    """Softmax over the keys that are seen; 0 in a row that sees none."""
    if seen is None:
        return torch.softmax(scores, -1)
    blind = ~seen.any(-1, keepdim=True)
    return torch.softmax(scores.masked_fill(~seen & ~blind, float("-inf")), -1).masked_fill(blind, 0.0)
