"""Causal softmax attention by blocks: skips what a mask_mod hides, never holds a T x S matrix."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from longatlas.errors import LongAtlasError
from longatlas.ops import masks
from longatlas.ops.arguments import check_qkv, repeated
from longatlas.ops.layout import Block, Positions, is_range, layout
from longatlas.ops.masks import indices
from longatlas.ops.merging import log_sum_exp, masked_softmax
from longatlas.ops.reference import dense_attention
from longatlas.slots import MaskMod, ScoreMod

IMPLS = ("auto", "torch", "reference")
# Above this many mask or score elements in all blocks together, training recomputes them in the backward pass.
REMATERIALISE_ABOVE = 1 << 22


class Mods(NamedTuple):
    """What is done to the scores, and whether their log-sum-exp is asked for."""

    mask: MaskMod
    score: ScoreMod | None
    lse: bool = False


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
    visible: Tensor | None = None,
    scale: float | None = None,
    block_size: int = 128,
    return_lse: bool = False,
    impl: str = "auto",
) -> Any:
    """Softmax attention over the keys that causality and `mask_mod` leave visible, block by block.

    q [B, T, H, D]; k [B, S, Hkv, D]; v [B, S, Hkv, E]; returns o [B, T, H, E]. H is a multiple of Hkv.
    mask_mod(b, h, q_idx, kv_idx) and score_mod(score, b, h, q_idx, kv_idx) have FlexAttention's signatures; the
    indices are positions, by default 0 ... S-1 for keys and the last T of them for queries. Positions are [T] and
    [S], or [B, T] and [B, S] where rows stand at different ones. Gradients flow to q, k, v and to what the mods
    capture. A query that sees no key gets 0.

    visible     bool [B or 1, H or 1, S]: keys that may be seen at all; None = all
    scale       factor on q·k; None = D**-0.5
    block_size  queries worked on at once
    return_lse  return (o, lse): lse [B, T, H] is log Σ exp of the scores that a query sees, -inf where it sees none, at
                least in fp32; longatlas.ops.merge_attention puts such pairs together
    impl        "auto" or "torch" (this algorithm), or "reference" (the whole score matrix)

    A score_mod with the attribute `additive = True` promises score + f(b, h, q_idx, kv_idx) and is run as a bias, which
    is quicker. The layout of a mask_mod that captures only numbers, or promises `constant = True`, is remembered.

    Raises LongAtlasError where shapes, positions, `block_size` or `impl` do not fit.
    """
    check_qkv(q, k, v, grouped=True, keys="S")
    if impl not in IMPLS or block_size < 1:
        raise LongAtlasError(
            f"impl is {impl!r}, block_size {block_size}; impl must be one of {', '.join(IMPLS)}, block_size at least 1"
        )
    queries, keys = q.shape[1], k.shape[1]
    if q_positions is None:
        q_positions = torch.arange(keys - queries, keys, device=q.device)
    if k_positions is None:
        k_positions = torch.arange(keys, device=q.device)
    _check_positions(q, k, q_positions, k_positions, visible)
    if impl == "reference":
        return dense_attention(
            q,
            k,
            v,
            mask_mod=mask_mod,
            score_mod=score_mod,
            q_positions=q_positions,
            k_positions=k_positions,
            visible=visible,
            scale=scale,
            return_lse=return_lse,
        )
    if queries == 0 or keys == 0:
        empty = q.new_zeros(*q.shape[:3], v.shape[3])
        return (empty, empty.new_full(q.shape[:3], -torch.inf)) if return_lse else empty
    k, v = repeated(q.shape[2], k, v)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # [B, H, T, D]
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    mods = Mods(mask_mod or causal, score_mod, return_lse)
    is_plain = q_positions.ndim == k_positions.ndim == 1 and visible is None
    ranges = is_plain and is_range(k_positions) and is_range(q_positions)
    positions = Positions(q_positions, k_positions, ranges, visible)
    if _is_fused(mods, positions):
        return functional.scaled_dot_product_attention(q, k, v, is_causal=queries > 1, scale=scale).transpose(1, 2)
    o = _run(q, k, v, mods, positions, scale, layout(mods.mask, positions, q.shape[0], q.shape[1], block_size))
    if not return_lse:
        return o.transpose(1, 2)
    return o[..., :-1].transpose(1, 2).to(v.dtype), o[..., -1].transpose(1, 2)


def _is_fused(mods: Mods, positions: Positions) -> bool:
    """Whether one fused call does it: causal attention of a whole sequence, or one query that sees every key."""
    if mods.mask is not causal or mods.score is not None or mods.lse or positions.visible is not None:
        return False
    if positions.q.ndim > 1 or positions.k.ndim > 1:
        return False
    if len(positions.q) == 1:
        return bool((positions.k <= positions.q).all())
    return positions.ranges and len(positions.q) == len(positions.k) and bool(positions.q[0] == positions.k[0])


def _check_positions(q: Tensor, k: Tensor, q_positions: Tensor, k_positions: Tensor, visible: Tensor | None) -> None:
    batch, queries, heads, _ = q.shape
    keys = k.shape[1]
    for name, given, count, of in (
        ("q_positions", q_positions, queries, "queries"),
        ("k_positions", k_positions, keys, "keys"),
    ):
        if tuple(given.shape) not in ((count,), (batch, count), (1, count)):
            raise LongAtlasError(
                f"{name} is {list(given.shape)} for {count} {of} in {batch} rows; give one place for each: "
                f"[{count}] or [{batch}, {count}]"
            )
    if visible is not None and not (
        visible.ndim == 3
        and visible.shape[0] in (1, batch)
        and visible.shape[1] in (1, heads)
        and visible.shape[2] == keys
    ):
        raise LongAtlasError(
            f"visible is {list(visible.shape)}; it must be [B or 1, H or 1, S] with B {batch}, H {heads}, S {keys}"
        )


def _run(
    q: Tensor, k: Tensor, v: Tensor, mods: Mods, positions: Positions, scale: float, blocks: list[Block]
) -> Tensor:
    area = sum((block.rows.stop - block.rows.start) * block.keys for block in blocks)
    remat = torch.is_grad_enabled() and area * (q.shape[1] if mods.score or mods.lse else 1) > REMATERIALISE_ABOVE
    outputs = []
    for block in blocks:
        inputs = (q[:, :, block.rows], k, v, mods, positions.rows(block.rows), scale, block)
        if remat:
            outputs.append(checkpoint(_attend, *inputs, use_reentrant=False, preserve_rng_state=False))
        else:
            outputs.append(_attend(*inputs))
    return torch.cat(outputs, 2)


def _attend(q: Tensor, k: Tensor, v: Tensor, mods: Mods, positions: Positions, scale: float, block: Block) -> Tensor:
    """One block of queries [B, H, Tq, D] against the runs of keys it sees; with `lse` that is a last column of o."""
    if not block.runs:
        blind = q.new_zeros(*q.shape[:3], v.shape[3]) + 0 * (q.sum() + k.sum() + v.sum())
        return functional.pad(blind, (0, 1), value=-torch.inf) if mods.lse else blind
    k, v, places = block.pick(k, 2), block.pick(v, 2), block.pick(positions.k, -1)
    seen = block.seen
    if seen is None and not block.all:
        shown = None if positions.visible is None else block.pick(positions.visible, 2)
        seen = masks.visible(mods.mask, positions.q, places, q.shape[0], q.shape[1], shown)
    if mods.score is None and not mods.lse:
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale)
    where = indices(positions.q, places, q.shape[0], q.shape[1])
    if getattr(mods.score, "additive", False) and not mods.lse:
        assert mods.score is not None
        bias = mods.score(q.new_zeros(()), *where).to(q.dtype)
        bias = bias if seen is None else bias.masked_fill(~seen, float("-inf"))
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    scores = (q @ k.transpose(2, 3)).to(torch.promote_types(q.dtype, torch.float32)) * scale
    scores = scores if mods.score is None else mods.score(scores, *where)
    o = masked_softmax(scores, seen).to(v.dtype) @ v
    if not mods.lse:
        return o
    lse = log_sum_exp(scores if seen is None else scores.masked_fill(~seen, -torch.inf))
    return torch.cat([o.to(lse.dtype), lse[..., None]], -1)
