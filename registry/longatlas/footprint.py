"""What long-term memories keep, as formulas: Table 1 of the Infini-attention paper (arXiv:2404.07143)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """The table's symbols.

    layers       l
    heads        H
    head_size    d_key = d_value
    segment      N, tokens of a segment
    memory       S, tokens of a memory that is searched
    compression  c, compressed memory slots, at the ratio r
    prompts      p, summary vectors
    steps        m, accumulated summaries
    """

    layers: int = 12
    heads: int = 8
    head_size: int = 128
    segment: int = 2048
    memory: int = 65_000
    compression: int = 0
    ratio: int = 3
    prompts: int = 100
    steps: int = 1

    @property
    def d_model(self) -> int:
        return self.heads * self.head_size


SMALL = Setting(layers=2, heads=4, head_size=16, segment=32, memory=128)  # one that is measured in a second


@dataclass(frozen=True)
class Footprint:
    """One row of the table.

    name, method       as the paper spells it, and the name of the built-in method, "" where there is none
    cache, context     formulas in words: elements kept, and tokens that can be looked back on
    elements, reach    the same as functions of a Setting
    """

    name: str
    method: str
    cache: str
    elements: Callable[[Setting], int]
    context: str
    reach: Callable[[Setting], int]


# The table prints (d_key + d_value) H N S for the Memorizing Transformer. One layer that keeps S tokens, beside the
# segment caches of all layers, is the reading that gives its 183M.
TABLE = (
    Footprint(
        name="Transformer-XL",
        method="transformer_xl",
        cache="(d_key + d_value) H N l",
        elements=lambda s: 2 * s.head_size * s.heads * s.segment * s.layers,
        context="N l",
        reach=lambda s: s.segment * s.layers,
    ),
    Footprint(
        name="Compressive Transformer",
        method="",
        cache="d_model (c + N) l",
        elements=lambda s: s.d_model * (s.compression + s.segment) * s.layers,
        context="(c r + N) l",
        reach=lambda s: (s.compression * s.ratio + s.segment) * s.layers,
    ),
    Footprint(
        name="Memorizing Transformer",
        method="memorizing_transformer",
        cache="(d_key + d_value) H (S + N l)",
        elements=lambda s: 2 * s.head_size * s.heads * (s.memory + s.segment * s.layers),
        context="N S",
        reach=lambda s: s.memory,
    ),
    Footprint(
        name="RMT",
        method="",
        cache="d_model p l 2",
        elements=lambda s: s.d_model * s.prompts * s.layers * 2,
        context="N S",
        reach=lambda s: s.memory,
    ),
    Footprint(
        name="AutoCompressors",
        method="",
        cache="d_model p (m + 1) l",
        elements=lambda s: s.d_model * s.prompts * (s.steps + 1) * s.layers,
        context="N S",
        reach=lambda s: s.memory,
    ),
    Footprint(
        name="Infini-attention",
        method="infini_attention",
        cache="d_key (d_value + 1) H l",
        elements=lambda s: s.head_size * (s.head_size + 1) * s.heads * s.layers,
        context="N S",
        reach=lambda s: s.memory,
    ),
)


def find(method: str) -> Footprint | None:
    """The row of a built-in method, None where the table has none."""
    return next((row for row in TABLE if row.method == method), None)
