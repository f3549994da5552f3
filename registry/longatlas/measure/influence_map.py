"""An influence map as data; what draws one need not load torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

TOKENS = 32  # of a sequence, where no other length is asked for
MOST_TOKENS = 256


@dataclass(frozen=True)
class Influence:
    """values[i][j]: the size of the gradient of output i by the embedding of token j; 0 is no dependence at all.

    spec     what was differentiated, with the options it had: those in tokens are scaled to the short sequence
    layers   of the decoder; more than one lets influence travel further than a layer reaches
    """

    spec: str
    layers: int
    values: tuple[tuple[float, ...], ...]

    @property
    def tokens(self) -> int:
        return len(self.values)

    @property
    def relative(self) -> list[list[float]]:
        """Each row over its largest value, 0 to 1."""
        return [[value / (max(row) or 1.0) for value in row] for row in self.values]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Influence:
        values = tuple(tuple(map(float, row)) for row in found["values"])
        return cls(str(found["spec"]), int(found["layers"]), values)
