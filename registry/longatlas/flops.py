"""What an operation needs in floating-point operations, and what it keeps, as formulas; nothing here imports torch.

Counted are the matrix products that the mathematics needs, 2 operations per multiply-add, over visible pairs only; not
elementwise work, and not what an implementation does beyond that. tests/registry/test_flops.py holds every formula
against torch's own counter on the reference, read token by token, and tests/registry/test_state_size.py what is kept
against the measured state.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Call:
    """One call of the operation of one layer, for one sequence.

    tokens      T of this call
    past        tokens read before it
    heads       H
    head_size   D
    layer       index of the layer among n_layers
    n_kv_heads  heads of k and v; None = heads
    """

    tokens: int
    past: int
    heads: int
    head_size: int
    layer: int = 0
    n_layers: int = 1
    n_kv_heads: int | None = None

    @property
    def end(self) -> int:
        """Tokens read after the call."""
        return self.past + self.tokens

    @property
    def kv_heads(self) -> int:
        return self.n_kv_heads or self.heads

    @property
    def causal(self) -> int:
        """Visible pairs of causal attention without a window."""
        return self.tokens * self.past + self.tokens * (self.tokens + 1) // 2

    def softmax(self, pairs: int) -> int:
        """Of q k^T and the weighted sum of v over `pairs`."""
        return 4 * self.heads * self.head_size * pairs

    def keys_values(self, tokens: int) -> int:
        """Numbers in the keys and values of `tokens` tokens."""
        return 2 * self.kv_heads * self.head_size * tokens


def causal_softmax(call: Call) -> int:
    """Causal attention: every token sees itself and all before it."""
    return call.softmax(call.causal)


def growing_cache(call: Call) -> int:
    """State: the keys and values of all tokens read."""
    return call.keys_values(call.end)


def windowed_pairs(call: Call, size: int) -> int:
    """Visible pairs where a token sees the last `size` tokens, itself included."""
    return call.tokens + earlier_pairs(call, 1, size - 1)


def segment_pairs(call: Call, size: int, memory: int = 0) -> int:
    """Visible pairs where a token sees its segment up to itself, and at most `memory` tokens before the segment."""
    return _own_pairs(call.end, size) - _own_pairs(call.past, size) + earlier_pairs(call, size, memory)


def earlier_pairs(call: Call, size: int, most: int) -> int:
    """Pairs of a token with the tokens before its segment of `size` tokens, the latest `most` of them."""
    return _earlier_pairs(call.end, size, most) - _earlier_pairs(call.past, size, most)


def _own_pairs(end: int, size: int) -> int:
    """Of the first `end` tokens, each with its segment up to itself."""
    whole, rest = divmod(end, size)
    return whole * (size * (size + 1) // 2) + rest * (rest + 1) // 2


def _earlier_pairs(end: int, size: int, most: int) -> int:
    """Of the first `end` tokens: each of segment s has s * size tokens before it and sees `most` of them at most."""
    whole, rest = divmod(end, size)
    growing = min(whole, most // size + 1)
    seen = size * (growing * (growing - 1) // 2) + most * (whole - growing)
    return size * seen + rest * min(most, whole * size)
