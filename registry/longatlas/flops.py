"""What an operation needs in floating-point operations, as formulas; nothing here imports torch.

Counted are the matrix products that the mathematics needs, 2 operations per multiply-add, over visible pairs only; not
elementwise work, and not what an implementation does beyond that. tests/registry/test_flops.py holds every formula
against torch's own counter on the reference, read token by token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Call:
    """One call of the operation of one layer, for one sequence.

    tokens     T of this call
    past       tokens read before it
    heads      H
    head_size  D
    layer      index of the layer among n_layers
    """

    tokens: int
    past: int
    heads: int
    head_size: int
    layer: int = 0
    n_layers: int = 1

    def visible(self, keys_of: Callable[[int], int]) -> int:
        """Visible pairs: the sum over the call's queries of the keys that each sees, by its position from 0."""
        return sum(keys_of(position) for position in range(self.past, self.past + self.tokens))

    @property
    def causal(self) -> int:
        """Visible pairs of causal attention without a window."""
        return self.tokens * self.past + self.tokens * (self.tokens + 1) // 2

    def softmax(self, pairs: int) -> int:
        """Of q k^T and the weighted sum of v over `pairs`."""
        return 4 * self.heads * self.head_size * pairs


def causal_softmax(call: Call) -> int:
    """Causal attention: every token sees itself and all before it."""
    return call.softmax(call.causal)


def windowed_pairs(call: Call, size: int) -> int:
    """Visible pairs where a token sees the last `size` tokens, itself included."""
    whole = max(0, min(call.past + call.tokens, size) - call.past)  # queries that still see all before them
    growing = whole * call.past + whole * (whole + 1) // 2
    return growing + (call.tokens - whole) * size


def segment_pairs(call: Call, size: int, memory: int = 0) -> int:
    """Visible pairs where a token sees its segment up to itself, and at most `memory` tokens before the segment."""
    return call.visible(lambda position: position % size + 1 + min(memory, position - position % size))
