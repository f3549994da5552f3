"""What every chart ends in: layers over each other, in the theme's colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from longatlas_dashboard.theme import Theme, chart_config

HEIGHT = 340


class _Layers(alt.LayerChart):
    """Layers that are not held against the schema each time they are drawn, which would take as long as making them."""

    def to_dict(self, validate: bool = False, **options: Any) -> dict[str, Any]:
        made: dict[str, Any] = super().to_dict(validate, **options)
        return made


def layered(layers: Sequence[Any], theme: Theme, data: pd.DataFrame, height: Any = HEIGHT) -> alt.LayerChart:
    """Layers over each other; those without data of their own draw `data`."""
    chart = _Layers(layer=list(layers), data=data)
    return chart.properties(height=height, width="container").configure(**chart_config(theme))
