"""The Transformer-XL layer (arXiv:1901.02860, section 3.2): segments that attend to stored inputs."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from longatlas import DecoderConfig, Here, ProjectedMixer
from longatlas.kernels import obstacle
from longatlas.ops.arguments import repeated
from longatlas.ops.segments import check_segments
from longatlas_plugins.long_term_memory.transformer_xl.decode import attend_to_entries
from longatlas_plugins.long_term_memory.transformer_xl.operation import relative_attention
from longatlas_plugins.long_term_memory.transformer_xl.pieces import (
    Piece,
    cut,
    groups,
    project_each,
    project_once,
    with_frozen_memory,
)
from longatlas_plugins.long_term_memory.transformer_xl.positions import sinusoids

# Up to here a kernel splits the keys of each query.
FEW_QUERIES = 16
# Short segments are put into one call until it has this many query rows.
BATCHED_ROWS = 256


class TransformerXLState(NamedTuple):
    """What the layer carries between calls.

    entries  [B, m + u, width]: the m <= mem_len tokens before the present segment, detached, then its u tokens, where
             u is the position of the next token modulo segment_len. With cache="hidden" an entry is the layer's input
             (width d_model), with "kv" its key and value

    Gradients pass through the u entries of the unfinished segment, as they do within one call.
    """

    entries: Tensor


class TransformerXL(ProjectedMixer):
    """Attention with segment-level recurrence; (x [B, T, d_model], state) -> (y [B, T, d_model], state).

    Segments start at multiples of `segment_len` tokens from the beginning of the sequence, wherever calls are
    cut.
    `window` is the number of keys that a query sees, itself included; None = memory and segment up to itself.
    """

    def __init__(
        self,
        config: DecoderConfig,
        *,
        segment_len: int,
        mem_len: int,
        clamp_len: int | None,
        window: int | None,
        cache: str,
        impl: str,
    ) -> None:
        super().__init__(config)
        self.segment_len, self.mem_len, self.clamp_len, self.window = segment_len, mem_len, clamp_len, window
        self.cache, self.impl = cache, impl
        self._kept_rows: tuple[Any, Tensor] | None = None
        self.relative = nn.Parameter(torch.empty(config.n_heads, config.head_size, config.d_model))  # W_R
        self.content_bias = nn.Parameter(torch.empty(config.n_heads, config.head_size))  # u
        self.position_bias = nn.Parameter(torch.empty(config.n_heads, config.head_size))  # v
        nn.init.uniform_(self.relative, -(config.d_model**-0.5), config.d_model**-0.5)
        nn.init.normal_(self.content_bias, std=0.02)
        nn.init.normal_(self.position_bias, std=0.02)

    def forward(self, x: Tensor, state: TransformerXLState | None, here: Here) -> tuple[Tensor, TransformerXLState]:
        q = self.q(x).unflatten(2, (self.n_heads, self.head_size))
        hidden = self.cache == "hidden"
        o, state = self._recur(q, x if hidden else self._keys_values(x), state, here, hidden=hidden)
        return self.out(o.flatten(2)), state

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, state: TransformerXLState | None, here: Here
    ) -> tuple[Tensor, TransformerXLState]:
        """q [B, T, H, D]; k, v [B, T, Hkv, D] -> o [B, T, H, D]; the state holds keys and values, not hidden states."""
        return self._recur(q, torch.cat([k.flatten(2), v.flatten(2)], -1), state, here, hidden=False)

    def _recur(
        self, q: Tensor, new: Tensor, state: TransformerXLState | None, here: Here, *, hidden: bool
    ) -> tuple[Tensor, TransformerXLState]:
        """q [B, T, H, D]; new [B, T, width]: the entries of these tokens, inputs of the layer where `hidden`."""
        check_segments(here, self.segment_len, "transformer_xl", has_state=state is not None)
        past = new[:, :0].detach() if state is None else state.entries
        entries, end = torch.cat([past, new], 1), here.start + q.shape[1]
        pieces = list(cut(here.start, end, entries.shape[1], self.segment_len, self.mem_len))
        if not pieces:
            o = q
        elif self._is_decode(q, pieces, hidden):
            o = self._attend_folded(q, entries, pieces[0], hidden)
        elif self._is_kernel_decode(q, pieces, hidden):
            o = self._attend_cached(q, entries[:, pieces[0].low : pieces[0].end])
        else:
            o = self._attend(q, entries, pieces, hidden)
        return o, TransformerXLState(self._kept(entries, end))

    def _kept(self, entries: Tensor, end: int) -> Tensor:
        """What the next token may need: the memory, cut from the graph, and the unfinished segment."""
        start = entries.shape[1] - end % self.segment_len
        low = max(0, start - self.mem_len)
        kept = with_frozen_memory(entries, Piece(low, start, start, entries.shape[1]))
        # A view would keep all entries of a long call alive.
        return kept if low == 0 or kept.requires_grad else kept.clone()

    def _is_decode(self, q: Tensor, pieces: list[Piece], hidden: bool) -> bool:
        """Whether so few queries cost less with the projections folded in than with the memory projected."""
        few = 2 * q.shape[0] * q.shape[1] <= self.head_size
        plain = type(self.k) is type(self.v) is nn.Linear  # a wrapped projection is more than its weight
        folds = self.impl != "reference" and not self._is_kernel_decode(q, pieces, hidden)
        return few and plain and len(pieces) == 1 and folds

    def _has_kernels(self, q: Tensor) -> bool:
        return self.impl == "triton" or (self.impl == "auto" and q.is_cuda and not obstacle(q=q))

    def _is_kernel_decode(self, q: Tensor, pieces: list[Piece], hidden: bool) -> bool:
        """Whether keys and values lie there for a kernel that splits them; with hidden states folding stays cheaper."""
        few = q.shape[1] < FEW_QUERIES and len(pieces) == 1
        return few and not hidden and not torch.is_grad_enabled() and self._has_kernels(q)

    def _attend_cached(self, q: Tensor, entries: Tensor) -> Tensor:
        """q [B, L, H, D] against a cache [B, K, 2 Hkv D], where it lies."""
        from longatlas_plugins.long_term_memory.transformer_xl.kernels import relative_decode

        queries = [q.float() + bias.float() for bias in (self.content_bias, self.position_bias)]
        scale = self.head_size**-0.5
        return relative_decode(
            *queries, *self._split(entries), self._distance_keys(q), scale, self.window, self.clamp_len
        )

    def _split(self, keys_values: Tensor) -> list[Tensor]:
        """[B, K, 2 Hkv D] -> k, v [B, K, Hkv, D], views"""
        return [x.unflatten(2, (self.kv_heads, self.head_size)) for x in keys_values.chunk(2, 2)]

    def _distance_keys(self, like: Tensor) -> Tensor:
        """W_R R [R, H, D] in the dtype of `like`, kept for as long as W_R stays what it is."""
        weight = self.relative
        stamp = (weight.data_ptr(), None if weight.is_inference() else weight._version, like.dtype, like.device)
        if self._kept_rows is None or self._kept_rows[0] != stamp:
            rows = self._sinusoids(like)
            self._kept_rows = (
                stamp,
                torch.einsum("re,hde->rhd", rows, weight.to(rows.dtype)).to(like.dtype).contiguous(),
            )
        return self._kept_rows[1]

    def _attend_folded(self, q: Tensor, entries: Tensor, piece: Piece, hidden: bool) -> Tensor:
        seen = with_frozen_memory(entries, piece)
        return attend_to_entries(
            q,
            seen,
            self._sinusoids(seen),
            self.relative,
            self.content_bias,
            self.position_bias,
            key_value=(self.k.weight, self.v.weight) if hidden else None,
            kv_heads=self.kv_heads,
            window=self.window,
            clamp_len=self.clamp_len,
        )

    def _attend(self, q: Tensor, entries: Tensor, pieces: list[Piece], hidden: bool) -> Tensor:
        """o [B, T, H, D]: each piece against its memory and segment."""
        rows = self._sinusoids(entries)[: max(piece.end - piece.low for piece in pieces)]
        rel_k = torch.einsum("re,hde->rhd", rows, self.relative.to(rows.dtype))  # W_R R
        project = self._keys_values if hidden else lambda x: x
        if self.impl == "reference":
            most, keys_of = 1, project_each(project, entries)
        else:
            most = max(1, BATCHED_ROWS // (q.shape[0] * self.segment_len))
            keys_of = project_once(project, entries, pieces)
        outputs: list[Tensor] = []
        parts = dict(zip(pieces, q.split([p.end - p.queries for p in pieces], 1), strict=True))
        for group in groups(pieces, most):
            some_q, some_keys = _stack([parts[p] for p in group]), _stack([keys_of(p) for p in group])
            outputs += self._attend_group(some_q, some_keys, rel_k).chunk(len(group))
        return torch.cat(outputs, 1)

    def _attend_group(self, q: Tensor, keys_values: Tensor, rel_k: Tensor) -> Tensor:
        """q [B, L, H, D]; keys_values [B, K, 2 Hkv D]"""
        k, v = self._split(keys_values)
        return self._operate(q, *repeated(self.n_heads, k, v), rel_k)

    def _operate(self, q: Tensor, k: Tensor, v: Tensor, rel_k: Tensor) -> Tensor:
        """q [B, L, H, D]; k, v [B, K, H, D], the memory first; rel_k [R, H, D] -> o [B, L, H, D]"""
        if self._has_kernels(q):
            q, k, v = (x.contiguous() for x in (q, k, v))
        return relative_attention(
            q,
            k,
            v,
            rel_k,
            self.content_bias,
            self.position_bias,
            window=self.window,
            clamp_len=self.clamp_len,
            impl=self.impl,
        )

    def _keys_values(self, x: Tensor) -> Tensor:
        return torch.cat([self.k(x), self.v(x)], -1)

    def _sinusoids(self, like: Tensor) -> Tensor:
        """R for every distance that can occur, at least in fp32."""
        reach = self.mem_len + self.segment_len
        length = reach if self.clamp_len is None else min(reach, self.clamp_len + 1)
        dtype = torch.promote_types(like.dtype, torch.float32)
        return sinusoids(length, self.relative.shape[2], dtype=dtype, device=like.device)


def _stack(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, 0)
