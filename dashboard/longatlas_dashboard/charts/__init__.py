"""Every chart of the dashboard: a frame goes in, an Altair chart comes out. Nothing here knows Streamlit.

Encodings are given as objects: of a mere string Altair finds the class by a walk through its schema, which takes longer
than all else of a chart.
"""

from longatlas_dashboard.charts.axes import in_order, ticks
from longatlas_dashboard.charts.curves import FAILED_STEP, buckets, scaling
from longatlas_dashboard.charts.frontier import trade_off
from longatlas_dashboard.charts.maps import cell_grid, depth_map, icicle, influence_map

__all__ = [
    "FAILED_STEP",
    "buckets",
    "cell_grid",
    "depth_map",
    "icicle",
    "in_order",
    "influence_map",
    "scaling",
    "ticks",
    "trade_off",
]
