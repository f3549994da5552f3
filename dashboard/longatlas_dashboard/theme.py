"""The one visual system: colours, shapes, dashes and chart settings of the light and the dark theme."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")
DASHES: tuple[tuple[int, ...], ...] = ((1, 0), (6, 3), (2, 2), (8, 3, 2, 3), (12, 4), (4, 1))
FONT = "Source Sans, sans-serif"
HEADINGS = ("2rem", "1.3rem", "1.1rem", "1rem", "1rem", "1rem")
# Names of Streamlit's coloured texts (badges, messages, code); each has at least 4.5:1 on its ground.
WORDS = ("blue", "green", "orange", "violet", "red", "gray", "yellow")


@dataclass(frozen=True)
class Theme:
    """Colours of one theme; the palette has at least 3:1 contrast to the background, safe for the colour-blind."""

    name: str
    background: str
    surface: str
    surface_strong: str
    border: str
    text: str
    muted: str
    primary: str
    link: str
    palette: tuple[str, ...]
    words: tuple[str, ...]
    good: str
    bad: str


LIGHT = Theme(
    name="light",
    background="#FFFFFF",
    surface="#F4F6F8",
    surface_strong="#D3E3EF",
    border="#DCE1E6",
    text="#10151B",
    muted="#56616D",
    primary="#0067A3",
    link="#0067A3",
    palette=("#0072B2", "#E47200", "#401B13", "#000076", "#AD795F", "#AA00FF"),
    words=("#005F96", "#1B6636", "#8F4700", "#6A2FB5", "#B3261E", "#4D5762", "#735300"),
    good="#0072B2",
    bad="#B34700",
)
DARK = Theme(
    name="dark",
    background="#0B0F13",
    surface="#182028",
    surface_strong="#1E3444",
    border="#2D3742",
    text="#E8ECF0",
    muted="#A3AFBB",
    primary="#2376AD",
    link="#56B4E9",
    palette=("#56B4E9", "#FF8000", "#AA00FF", "#FFFFFF", "#537641", "#FFC68C"),
    words=("#7CC4F0", "#7FD6A4", "#FFB066", "#C9A6FF", "#FF9C94", "#D0D7DE", "#F2CE6B"),
    good="#56B4E9",
    bad="#FF9440",
)
THEMES = {theme.name: theme for theme in (LIGHT, DARK)}


@dataclass(frozen=True)
class Style:
    """How a method is drawn: indices into palette, SHAPES and DASHES, so that colour is never alone."""

    colour: int
    shape: int
    dash: int


def style_of(spec: str, order: Sequence[str]) -> Style:
    """The style of a spec, bound to the method and not to its rank in a chart.

    order  names of the catalog's methods; a method keeps its place in it. Options and combinations keep the
           colour of their first method and take shape and dash from a stable hash.
    """
    first = spec.partition("+")[0].partition(":")[0]
    place = order.index(first) if first in order else zlib.crc32(first.encode())
    colour, turn = place % 6, place // 6
    if spec != first:
        turn += 1 + zlib.crc32(spec.encode()) % 5
    return Style(colour, (colour + turn) % len(SHAPES), (colour + turn) % len(DASHES))


def styles_of(specs: Sequence[str], order: Sequence[str]) -> list[Style]:
    """The styles of the specs of one chart, no two of the same colour and shape while there are shapes left.

    Where two would look the same, the one with options turns to the next free shape and dash.
    """
    found: dict[str, Style] = {}
    for spec in sorted(specs, key=lambda spec: (":" in spec or "+" in spec, spec)):
        wanted = style_of(spec, order)
        taken = {(style.colour, style.shape) for style in found.values()}
        turned = (
            Style(wanted.colour, (wanted.shape + turn) % len(SHAPES), (wanted.dash + turn) % len(DASHES))
            for turn in range(len(SHAPES))
        )
        found[spec] = next((style for style in turned if (style.colour, style.shape) not in taken), wanted)
    return [found[spec] for spec in specs]


def chart_config(theme: Theme) -> dict[str, Any]:
    """Vega-Lite `config` for every chart."""
    axis = {
        "labelColor": theme.muted,
        "titleColor": theme.text,
        "gridColor": theme.border,
        "domainColor": theme.border,
        "tickColor": theme.border,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": 500,
        "titlePadding": 8,
    }
    return {
        "background": theme.background,
        "font": FONT,
        "view": {"stroke": None},
        "axis": axis,
        "axisX": {"grid": False},
        "legend": {
            "labelColor": theme.text,
            "titleColor": theme.muted,
            "labelFontSize": 12,
            "titleFontSize": 12,
            "labelLimit": 260,
            "symbolSize": 70,
            "symbolStrokeWidth": 0,
        },
        "title": {"color": theme.text, "subtitleColor": theme.muted, "fontSize": 14, "anchor": "start"},
        "text": {"color": theme.text, "fontSize": 12},
    }


def streamlit_options() -> dict[str, str]:
    """Streamlit's theme options: option name -> value. Lists are JSON."""
    found = {"theme.metricValueFontSize": "1.6rem", "theme.headingFontSizes": json.dumps(HEADINGS)}
    for theme in (LIGHT, DARK):
        values = {
            "primaryColor": theme.primary,
            "backgroundColor": theme.background,
            "secondaryBackgroundColor": theme.surface,
            "textColor": theme.text,
            "borderColor": theme.border,
            "linkColor": theme.link,
            "codeTextColor": theme.text,
            **{f"{name}TextColor": colour for name, colour in zip(WORDS, theme.words, strict=True)},
            **{f"{name}Color": colour for name, colour in zip(WORDS, theme.words, strict=True)},
            "baseRadius": "small",
        }
        found |= {f"theme.{theme.name}.{key}": value for key, value in values.items()}
    return found


def contrast(one: str, other: str) -> float:
    """WCAG contrast ratio of two colours, 1 to 21."""
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
