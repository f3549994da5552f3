"""What every chart ends in: layers over each other, in the theme's colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from longatlas_dashboard.theme import Theme, chart_config

HEIGHT = 250


class _Layers(alt.LayerChart):
    """Layers that are not held against the schema each time they are drawn, which would take as long as making them."""

    def to_dict(self, validate: bool = False, **options: Any) -> dict[str, Any]:
        made: dict[str, Any] = super().to_dict(validate, **options)
        return made


def layered(
    layers: Sequence[Any], theme: Theme, data: pd.DataFrame, height: Any = HEIGHT, width: Any = "container"
) -> alt.LayerChart:
    """Layers over each other; those without data of their own draw `data`."""
    chart = _Layers(layer=list(layers), data=data)
    # The height is the plot's own: a legend comes on top of it.
    fit = alt.AutoSizeParams(type="fit-x" if width == "container" else "pad", contains="padding")
    return chart.properties(height=height, width=width, autosize=fit).configure(**chart_config(theme))
