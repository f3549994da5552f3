"""Points published by others, with their sources: an overlay that is never mixed with what is measured here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from longatlas import yamlfile
from longatlas.words import arxiv_address, is_arxiv


@dataclass(frozen=True)
class Source:
    """A table or figure of a paper."""

    paper: str
    place: str

    @property
    def address(self) -> str:
        return arxiv_address(self.paper)


@dataclass(frozen=True)
class Point:
    """One published value.

    name     as the paper calls the model
    method   spec of the registry's method that it belongs to, "" = none
    task     the benchmark; a task of the registry keeps its name
    setting  what one must know to read the value
    """

    name: str
    method: str
    task: str
    metric: str
    value: float
    unit: str
    setting: str
    source: Source


def load_points(path: Path | None = None) -> list[Point]:
    """The points of the packaged file, or of another. Raises LongAtlasError with file, line and what was expected."""
    whole = yamlfile.read(path or Path(__file__).with_name("published.yaml"))
    points = [_point(entry) for entry in whole.entries("points")]
    whole.finish()
    return points


def _point(entry: yamlfile.Entry) -> Point:
    point = Point(
        name=entry.get("name", str),
        method=entry.get("method", str, ""),
        task=entry.get("task", str),
        metric=entry.get("metric", str),
        value=float(entry.get("value", (int, float))),
        unit=entry.get("unit", str),
        setting=entry.get("setting", str),
        source=_source(entry.entry("source")),
    )
    entry.finish()
    return point


def _source(entry: yamlfile.Entry) -> Source:
    source = Source(entry.get("paper", str), entry.get("place", str))
    if not is_arxiv(source.paper):
        raise entry.key_error("paper", f"is '{source.paper}'; expected an arXiv id in quotes, such as \"2312.04927\"")
    entry.finish()
    return source
