"""Charts as pure functions: every mark is there, nothing is fetched, colour stays with the method."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from longatlas.harness import analysis
from longatlas.harness.demo import METHODS
from longatlas.store import Store
from longatlas_dashboard import charts, marks, theme, tree
from longatlas_dashboard.charts.frontier import PLOT, _box, _overlap, _pixels, _places
from longatlas_dashboard.data import methods_order

ORDER = ("vanilla", "alibi", "infini_attention")
THEMES = pytest.mark.parametrize("look", theme.THEMES.values(), ids=theme.THEMES)


def shaped(store: Store) -> tuple[pd.DataFrame, pd.DataFrame]:
    rows = store.rows(measure="speed", phase="train", latest=True)
    return analysis.measured(rows, "train_ms"), analysis.failures(rows)


def scaling(store: Store, look: theme.Theme = theme.LIGHT) -> dict[str, Any]:
    values, failed = shaped(store)
    made = charts.scaling(values, failed, title="ms", unit="ms", theme=look, order=ORDER)
    spec: dict[str, Any] = made.to_dict(validate=True)
    return spec


@THEMES
def test_every_chart_is_valid_and_fetches_nothing(filled: Store, look: theme.Theme) -> None:
    text = json.dumps(scaling(filled, look))
    assert '"url"' not in text
    assert look.background in text


def test_both_axes_are_logarithmic_and_intervals_are_drawn(filled: Store) -> None:
    layers = scaling(filled)["layer"]
    assert layers[0]["encoding"]["x"]["scale"]["type"] == layers[0]["encoding"]["y"]["scale"]["type"] == "log"
    assert any(layer["encoding"].get("y2") == {"field": "high"} for layer in layers)


def test_a_failed_cell_is_a_mark_above_the_plot(filled: Store) -> None:
    spec = scaling(filled)
    words = json.dumps(spec["datasets"])
    assert "vanilla, T = 4096: oom" in words
    crosses = [layer for layer in spec["layer"] if layer["encoding"].get("text") == {"value": "✕"}]
    assert [layer["encoding"]["y"] for layer in crosses] == [{"value": 0}]
    assert spec["layer"][0]["encoding"]["y"]["scale"]["range"] == [{"expr": "height"}, charts.FAILED_STEP]


def test_what_a_logarithmic_axis_cannot_show_is_left_out(filled: Store) -> None:
    values, failed = shaped(filled)
    values = values.head(4).assign(value=[0.0, -1.0, float("inf"), 2.0], low=[1.0, 1.0, 1.0, -1.0], high=3.0)
    options = {"title": "ms", "unit": "ms", "theme": theme.LIGHT, "order": ORDER}
    spec = charts.scaling(values, failed, **options).to_dict(validate=True)
    drawn = [row for rows in spec["datasets"].values() for row in rows if "value" in row]
    assert [(row["value"], row["low"], row["high"]) for row in drawn] == [(2.0, None, 3.0)]


def test_only_the_frontier_is_named(filled: Store) -> None:
    points = pd.DataFrame({"method": ["vanilla", "alibi"], "cost": [1.0, 2.0], "quality": [1.0, 2.0]})
    points = points.assign(quality_low=0.9, quality_high=2.1)
    options = {"cost_title": "c", "quality_title": "q", "unit": "ms", "theme": theme.LIGHT, "order": ORDER}
    spec = charts.trade_off(points, points.head(1), **options).to_dict(validate=True)
    named = [layer["data"]["name"] for layer in spec["layer"] if layer["encoding"].get("text")]
    assert [[row["method"] for row in spec["datasets"][name]] for name in named] == [["vanilla"]]


def test_colour_is_never_alone(filled: Store) -> None:
    lines, _, points = scaling(filled)["layer"][:3]
    assert lines["encoding"]["strokeDash"]["scale"]["domain"] == lines["encoding"]["color"]["scale"]["domain"]
    assert points["encoding"]["shape"]["scale"]["domain"] == points["encoding"]["color"]["scale"]["domain"]


def test_colour_belongs_to_the_method_not_to_the_rank(filled: Store) -> None:
    values, failed = shaped(filled)

    def colour(names: set[str]) -> str:
        part = values[values["method"].isin(names)]
        made = charts.scaling(part, failed[:0], title="", unit="ms", theme=theme.LIGHT, order=ORDER).to_dict(
            validate=True
        )
        scale = made["layer"][0]["encoding"]["color"]["scale"]
        return str(scale["range"][scale["domain"].index("alibi")])

    assert colour({"alibi"}) == colour({"alibi", "vanilla", "infini_attention"})


def test_styles_of_eighteen_methods_differ() -> None:
    order = [f"m{i}" for i in range(18)]
    styles = [theme.style_of(name, order) for name in order]
    assert len({(s.colour, s.shape) for s in styles}) == 18
    assert len({(s.colour, s.dash) for s in styles}) == 18
    assert theme.style_of("m3:window=2", order).colour == styles[3].colour
    assert theme.style_of("m3:window=2", order).shape != styles[3].shape


def test_no_two_methods_of_a_chart_look_the_same() -> None:
    order = methods_order()
    for specs in (METHODS, [f"vanilla:x={i}" for i in range(len(theme.SHAPES))], order):
        looks = {(style.colour, style.shape) for style in theme.styles_of(specs, order)}
        assert len(looks) == len(specs)
    alone = theme.styles_of(["linear_transformer"], order)
    assert theme.styles_of(["transformer_xl:segment_len=128:mem_len=128", "linear_transformer"], order)[1:] == alone


@THEMES
def test_palette_has_contrast(look: theme.Theme) -> None:
    assert all(theme.contrast(colour, look.background) >= 3 for colour in look.palette)
    assert theme.contrast(look.text, look.background) >= 7
    assert theme.contrast(look.muted, look.background) >= 4.5
    assert theme.contrast(look.link, look.background) >= 4.5


def test_trade_off_draws_the_frontier_as_steps(filled: Store) -> None:
    rows = filled.rows(latest=True)
    cost = analysis.at_length(rows, "prefill_ms", "prefill")
    points = analysis.trade_off(cost, analysis.measured(rows, "bits_per_byte"))
    frontier = analysis.pareto(points, "cost", "quality")
    made = charts.trade_off(
        points, frontier, cost_title="ms", quality_title="bits", unit="ms", theme=theme.DARK, order=ORDER
    ).to_dict(validate=True)
    assert made["layer"][0]["mark"]["interpolate"] == "step-after"
    assert len(points) == points["method"].nunique() == 6
    drawn = next(iter(made["datasets"][made["layer"][0]["data"]["name"]]))
    assert drawn["quality"] == pytest.approx(points["quality"].max())


def test_the_frontiers_names_lie_over_nothing() -> None:
    crowd = [(f"method_{i}:window={i}", 1.0 + i / 50, 3.0 - i / 500) for i in range(12)]
    far = [("first", 0.2, 3.5), ("last", 40.0, 1.0)]
    points = pd.DataFrame([*far, *crowd], columns=["method", "cost", "quality"]).assign(
        quality_low=np.nan, quality_high=np.nan
    )
    frontier = analysis.pareto(points, "cost", "quality")
    assert len(frontier) == 14
    spots = dict(zip(points["method"], _pixels(points), strict=True))
    places = list(_places(frontier, points))
    assert {"first", "last"} < {name for name, *_ in places}
    assert len(places) < 14, "of a crowd not all find room"
    boxes = [_box(name, *spots[name], align, abs(dx), dy) for name, align, dx, dy in places]
    boxes += [(x - 6, x + 6, y - 6, y + 6) for x, y in spots.values()]
    named = len(places)
    for place, box in enumerate(boxes[:named]):
        assert 0 <= box[0] < box[1] <= PLOT[0]
        assert not any(_overlap(box, other) for other in [*boxes[:place], *boxes[place + 1 :]])


def test_buckets_keep_every_position(filled: Store) -> None:
    values = analysis.measured(filled.rows(latest=True), "bits_per_byte")
    made = charts.buckets(values, title="bits", theme=theme.LIGHT, order=ORDER).to_dict(validate=True)
    assert made["layer"][0]["encoding"]["x"]["axis"]["values"] == [256, 512, 1024, 2048]


def test_a_depth_map_has_a_fixed_scale_and_its_values_in_the_cells() -> None:
    frame = pd.DataFrame({"T": [64, 64], "depth": [0, 1], "value": [0.0, 1.0], "n": [2, 2]})
    made = charts.depth_map(frame, theme=theme.LIGHT).to_dict(validate=True)
    assert made["layer"][0]["encoding"]["color"]["scale"] == {"scheme": "viridis", "domain": [0, 1]}
    assert [line["percent"] for line in next(iter(made["datasets"].values()))] == ["0%", "100%"]


def test_the_icicle_holds_every_node_and_names_its_selection() -> None:
    from longatlas.catalog import load_catalog

    atlas = load_catalog()
    frame = tree.icicle_frame(atlas)
    made = charts.icicle(frame, chosen="misc", theme=theme.LIGHT).to_dict(validate=True)
    assert [param["name"] for param in made["params"]] == ["node"]
    assert set(frame["path"]) == {node.path for node in atlas.taxonomy.walk()}
    assert frame["end"].max() == len(atlas.taxonomy.leaves) + 1


def test_the_grid_tells_status_by_glyph() -> None:
    frame = pd.DataFrame({"method": ["a", "a"], "column": ["x", "y"], "status": ["oom", "ok"], "label": ["a x", "a y"]})
    made = charts.cell_grid(frame, theme=theme.LIGHT).to_dict(validate=True)
    glyphs = [line["glyph"] for line in next(iter(made["datasets"].values()))]
    assert glyphs == ["M", "✓"]


@pytest.mark.parametrize(
    ("low", "high", "unit", "expected"),
    [
        (1, 60, "ms", [1, 2, 5, 10, 20, 50]),
        (1 << 20, 8 << 20, "bytes", [1 << 20, 2 << 20, 4 << 20, 8 << 20]),
        (0, 1, "ms", []),
        (0.51, 0.58, "ms", []),
        (7.2, 16.4, "ms", [8, 10, 15]),
        (1 << 19, 1 << 19, "bytes", [1 << 19]),
    ],
)
def test_ticks_are_round(low: float, high: float, unit: str, expected: list[float]) -> None:
    assert charts.ticks(low, high, unit) == pytest.approx(expected)


def test_words_for_numbers() -> None:
    assert [marks.length_text(t) for t in (500, 1024, 1536, 4096, 1 << 20)] == ["500", "1K", "1536", "4K", "1M"]
    assert marks.value_text(1536, "bytes") == "1.5 KiB"
    assert marks.value_text(2500, "ms") == "2.5 s"
    assert marks.value_text(float("nan"), "ms") == ""
    assert marks.interval_text(1, 2, "ms") == "1 ms to 2 ms"
    assert marks.duration_text(600) == "10 min"
