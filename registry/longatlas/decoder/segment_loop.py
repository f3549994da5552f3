"""The base of `model` methods that read a text segment by segment and carry a memory from one to the next."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from longatlas.decoder.stack import Stack
from longatlas.decoder.state import DecoderState, detached
from longatlas.errors import LongAtlasError


class LoopState(NamedTuple):
    """What a segment loop carries between calls.

    position  the clock: tokens read
    memory    what the finished segments left, a pytree
    inner     the stack's state within the unfinished segment; None at a border
    hidden    [B, u, d_model]: what the stack gave for the u tokens of the unfinished segment, where `close` asks for it
    """

    position: int
    memory: Any
    inner: DecoderState | None = None
    hidden: Tensor | None = None


class SegmentLoop(nn.Module):
    """Wraps a stack: segments of N tokens, counted from the start of the text wherever calls are cut.

    stack        what the `model` builder is given
    segment_len  N, tokens
    bptt_depth   segments that keep their gradient, counted back from the last one of a call; 0 = all. With 1 no
                 gradient passes through the memory

    A subclass gives `start` and `close`, and may give `open` and `read`. The memory of a segment is written only when
    its last token has been read, so that token-by-token decoding equals one long call.

    Raises LongAtlasError for a segment below one token or a negative depth.
    """

    keeps_hidden = False  # whether `close` is given what the stack gave for the segment's tokens

    def __init__(self, stack: Stack, *, segment_len: int, bptt_depth: int = 0) -> None:
        super().__init__()
        if segment_len < 1 or bptt_depth < 0:
            raise LongAtlasError(
                f"segment_len is {segment_len} and bptt_depth {bptt_depth}; they must be at least 1 and 0"
            )
        self.stack, self.segment_len, self.bptt_depth = stack, segment_len, bptt_depth

    def start(self, x: Tensor) -> Any:
        """The memory before the first segment, for embeddings x [B, T, d_model]."""
        raise LongAtlasError(f"{type(self).__name__} has no start(x) -> memory, which a SegmentLoop needs; give it one")

    def open(self, memory: Any) -> DecoderState | None:
        """What the stack starts a segment from, such as its state after reading memory tokens; None = nothing."""
        return None

    def read(self, x: Tensor, inner: DecoderState | None, memory: Any) -> tuple[Tensor, DecoderState]:
        """Embeddings x [B, t, d_model] of a piece of a segment -> what the head reads, and the stack's state."""
        return self.stack.run(x, inner)

    def close(self, memory: Any, inner: DecoderState, hidden: Tensor | None) -> Any:
        """The memory after a segment; hidden [B, N, d_model] where `keeps_hidden`."""
        raise LongAtlasError(f"{type(self).__name__} has no close(memory, inner, hidden) -> memory; give it one")

    def forward(self, tokens: Tensor, state: LoopState | None = None) -> tuple[Tensor, LoopState]:
        """Logits [B, T, V] and the state."""
        x, state = self.hidden(tokens, state)
        return self.head(x), state

    def head(self, x: Tensor) -> Tensor:
        """Logits of what `hidden` gives."""
        logits: Tensor = self.stack.head(x)
        return logits

    def hidden(self, tokens: Tensor, state: LoopState | None = None) -> tuple[Tensor, LoopState]:
        """What the head reads, [B, T, d_model], and the state."""
        x = self.stack.embedding(tokens)
        if state is None:
            state = LoopState(0, self.start(x))
        outputs = []
        pieces = x.split(self._lengths(state.position, x.shape[1]), 1) if x.shape[1] else ()
        for number, piece in enumerate(pieces, 1):
            y, state = self._advance(piece, state)
            outputs.append(y)
            if self.bptt_depth and len(pieces) - number >= self.bptt_depth:
                state = state._replace(memory=detached(state.memory))
        return torch.cat(outputs, 1) if outputs else x, state

    def _advance(self, x: Tensor, state: LoopState) -> tuple[Tensor, LoopState]:
        """A piece that lies within one segment."""
        position, memory, inner, hidden = state
        if position % self.segment_len == 0:
            inner = self.open(memory)
        y, inner = self.read(x, inner, memory)
        position += x.shape[1]
        if self.keeps_hidden:
            hidden = y if hidden is None else torch.cat([hidden, y], 1)
        if position % self.segment_len:
            return y, LoopState(position, memory, inner, hidden)
        return y, LoopState(position, self.close(memory, inner, hidden))

    def _lengths(self, position: int, tokens: int) -> list[int]:
        """Tokens of each piece: up to the next border, whole segments, and what is left."""
        first = min(tokens, -position % self.segment_len)
        whole, rest = divmod(tokens - first, self.segment_len)
        return [n for n in (first, *[self.segment_len] * whole, rest) if n]
