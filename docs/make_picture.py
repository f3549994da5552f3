"""Draws docs/demo.png from the stored rows of `longatlas demo`, with the dashboard's own charts.

python docs/make_picture.py [STORE]
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import altair as alt
from PIL import Image

from longatlas.harness import analysis
from longatlas.harness.demo import demo_plan
from longatlas.store import Store
from longatlas_dashboard import charts
from longatlas_dashboard.data import methods_order
from longatlas_dashboard.theme import LIGHT

SHOWN = (
    "vanilla",
    "flash_attention",
    "sliding_window",
    "streaming_llm",
    "lightning_attention2",
    "transformer_xl",
    "infini_attention",
    "yarn",
)
PICTURE = Path(__file__).with_name("demo.png")


def main() -> None:
    store = Store(sys.argv[1] if len(sys.argv) > 1 else None, read_only=True)
    plan = demo_plan()
    frame = store.rows(latest=True)
    frame = frame[frame["method"].isin(plan.methods)]
    frame = frame.assign(method=frame["method"].str.partition(":")[0])
    frame = frame[frame["method"].isin(SHOWN)]
    order = methods_order()
    time = analysis.measured(frame, "prefill_ms", "prefill")
    bits = analysis.measured(frame, "bits_per_byte", "language_model")
    failed = analysis.failures(frame, "speed", "prefill")
    left = charts.scaling(time, failed, title="prefill, ms", unit="ms", theme=LIGHT, order=order)
    right = charts.buckets(bits, title="bits per byte (trained on T = 256)", theme=LIGHT, order=order)
    images = [draw(chart) for chart in (left, right)]
    joined = Image.new("RGB", (sum(i.width for i in images), max(i.height for i in images)), LIGHT.background)
    joined.paste(images[0], (0, 0))
    joined.paste(images[1], (images[0].width, 0))
    joined.quantize(128).save(PICTURE, optimize=True)


def draw(chart: alt.LayerChart) -> Image.Image:
    buffer = io.BytesIO()
    chart.properties(width=430, height=330).save(buffer, format="png", scale_factor=2)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


if __name__ == "__main__":
    main()
