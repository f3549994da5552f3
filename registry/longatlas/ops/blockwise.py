"""Causal softmax attention by blocks: skips what a mask_mod hides, never holds a T x S matrix."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from longatlas.errors import LongAtlasError
from longatlas.ops.masks import indices, visible
from longatlas.ops.reference import dense_attention
from longatlas.slots import MaskMod, ScoreMod

KEY_BLOCK = 64
IMPLS = ("auto", "torch", "reference")
# Above this many mask or score elements in all blocks together, training recomputes them in the backward pass.
REMATERIALISE_ABOVE = 1 << 22

Runs = list[tuple[int, int]]
_layouts: WeakKeyDictionary[Any, dict[tuple[int, ...], list[Runs]]] = WeakKeyDictionary()


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
    mask_mod = None if mask_mod is causal else mask_mod
    groups = q.shape[2] // k.shape[2]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 2), v.repeat_interleave(groups, 2)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # [B, H, T, D]
    if queries == 1 and mask_mod is None and score_mod is None and bool((k_positions <= q_positions).all()):
        return functional.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2)
    contiguous = _is_range(k_positions) and _is_range(q_positions)
    aligned = contiguous and queries == keys and bool(q_positions[0] == k_positions[0])
    if aligned and mask_mod is None and score_mod is None:
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale).transpose(1, 2)
    layout = _layout(mask_mod, q_positions, k_positions, q.shape[0], q.shape[1], block_size, contiguous)
    mods = (mask_mod, score_mod)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    o = _run(q, k, v, mods, q_positions, k_positions, scale, block_size, layout)
    return o.transpose(1, 2)


def _check_shapes(q: Tensor, k: Tensor, v: Tensor) -> None:
    shapes = f"q {list(q.shape)}, k {list(k.shape)}, v {list(v.shape)}"
    if not q.ndim == k.ndim == v.ndim == 4:
        raise LongAtlasError(f"{shapes}: expected q [B, T, H, D], k [B, S, Hkv, D], v [B, S, Hkv, E]")
    same = q.shape[0] == k.shape[0] and q.shape[3] == k.shape[3] and k.shape[:3] == v.shape[:3]
    if not same or q.shape[2] % k.shape[2]:
        raise LongAtlasError(f"{shapes}: batch, key length, D and heads must agree, and H must be a multiple of Hkv")


def _is_range(positions: Tensor) -> bool:
    return bool((positions[1:] - positions[:-1] == 1).all())


def _layout(
    mask_mod: MaskMod | None,
    q_positions: Tensor,
    k_positions: Tensor,
    batch: int,
    heads: int,
    block_size: int,
    contiguous: bool,
) -> list[Runs]:
    """For each block of queries the runs [start, end) of keys that any of its queries sees, in blocks of keys."""
    key: tuple[int, ...] = (len(q_positions), len(k_positions), batch, heads, block_size)
    if not contiguous or len(q_positions) <= block_size:
        return _find_runs(mask_mod, q_positions, k_positions, batch, heads, block_size)
    key += (int(q_positions[0]), int(k_positions[0]))
    known = _layouts.setdefault(mask_mod or causal, {})
    if key not in known:
        if len(known) > 64:
            known.clear()
        known[key] = _find_runs(mask_mod, q_positions, k_positions, batch, heads, block_size)
    return known[key]


def _find_runs(
    mask_mod: MaskMod | None,
    q_positions: Tensor,
    k_positions: Tensor,
    batch: int,
    heads: int,
    block_size: int,
) -> list[Runs]:
    keys = len(k_positions)
    layout = []
    for block in torch.split(q_positions, block_size):
        seen = visible(mask_mod, block, k_positions, batch, heads).flatten(0, 2).any(0)
        padded = functional.pad(seen, (0, -keys % KEY_BLOCK)).view(-1, KEY_BLOCK).any(1)
        layout.append(_runs(padded.nonzero().flatten().tolist(), keys))
    return layout


def _runs(blocks: list[int], keys: int) -> Runs:
    runs: Runs = []
    for block in blocks:
        start, end = block * KEY_BLOCK, min(keys, (block + 1) * KEY_BLOCK)
        if runs and runs[-1][1] == start:
            runs[-1] = (runs[-1][0], end)
        else:
            runs.append((start, end))
    return runs


def _run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mods: tuple[MaskMod | None, ScoreMod | None],
    q_positions: Tensor,
    k_positions: Tensor,
    scale: float,
    block_size: int,
    layout: list[Runs],
) -> Tensor:
    area = block_size * sum(end - start for runs in layout for start, end in runs)
    remat = torch.is_grad_enabled() and area * (q.shape[1] if mods[1] else 1) > REMATERIALISE_ABOVE
    outputs = []
    for i, runs in enumerate(layout):
        rows = slice(i * block_size, (i + 1) * block_size)
        block = (q[:, :, rows], k, v, mods, q_positions[rows], k_positions, scale, runs)
        if remat:
            outputs.append(checkpoint(_attend, *block, use_reentrant=False, preserve_rng_state=False))
        else:
            outputs.append(_attend(*block))
    return torch.cat(outputs, 2)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mods: tuple[MaskMod | None, ScoreMod | None],
    q_positions: Tensor,
    k_positions: Tensor,
    scale: float,
    runs: Runs,
) -> Tensor:
    """One block of queries [B, H, Tq, D] against the runs of keys it sees."""
    mask_mod, score_mod = mods
    if not runs:
        return q.new_zeros(*q.shape[:3], v.shape[3]) + 0 * (q.sum() + k.sum() + v.sum())
    k, v = _pick(k, runs, 2), _pick(v, runs, 2)
    k_positions = _pick(k_positions, runs, 0)
    seen = visible(mask_mod, q_positions, k_positions, q.shape[0], q.shape[1])
    if score_mod is None:
        mask = None if bool(seen.all()) else seen
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    if getattr(score_mod, "additive", False):
        bias = score_mod(q.new_zeros(()), *indices(q_positions, k_positions, q.shape[0], q.shape[1]))
        bias = bias.to(q.dtype).masked_fill(~seen, float("-inf"))
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    scores = (q @ k.transpose(2, 3)).to(torch.promote_types(q.dtype, torch.float32)) * scale
    scores = score_mod(scores, *indices(q_positions, k_positions, q.shape[0], q.shape[1]))
    blind = ~seen.any(-1, keepdim=True)
    weights = torch.softmax(scores.masked_fill(~seen & ~blind, float("-inf")), dim=-1)
    return weights.masked_fill(blind, 0.0).to(v.dtype) @ v


def _pick(x: Tensor, runs: Runs, dim: int) -> Tensor:
    parts = [x.narrow(dim, start, end - start) for start, end in runs]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)
