"""One self-contained HTML page of a set of results: the dashboard's charts as SVG, their tables, no scripts."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import altair as alt
import jinja2
import pandas as pd
import vl_convert
from markupsafe import Markup

from longatlas import measures
from longatlas.errors import LongAtlasError
from longatlas.harness import analysis
from longatlas.harness.plan_of import plan_of
from longatlas.measures import QUALITY
from longatlas.store import Store, queries
from longatlas.tasks.cards import CHANCE, about_training
from longatlas.words import BASELINE
from longatlas_dashboard import charts, data, plots, selection
from longatlas_dashboard.theme import DARK, LIGHT, Theme

SETTING = ("machine", "device", "dtype", "threads", "level")
WIDTH = 500  # pixels: two beside each other
SMALL = 240
AT_MOST = plots.AT_MOST


@dataclass(frozen=True)
class Picture:
    """A chart in both themes, with its title and the words for those who cannot see it."""

    title: str
    words: str
    light: Markup
    dark: Markup


@dataclass(frozen=True)
class Section:
    """What was measured under one setting."""

    title: str
    caption: str
    rows: int
    pictures: list[Picture] = field(default_factory=list)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    command: str = ""
    plan_hash: str = ""


def report(
    store: Store, *, title: str = "", methods: Sequence[str] = (), measure: str = "", phase: str = "", now: float = 0.0
) -> str:
    """The page as HTML text.

    methods, measure, phase  as in Store.rows: only these
    now                      seconds since 1970, for the date; 0 = the newest result's

    Raises LongAtlasError where no row matches.
    """
    rows = store.rows(methods=methods, measure=measure, phase=phase, latest=True)
    rows = queries.with_stale(rows, queries.current_sources(store))
    if rows.empty:
        raise LongAtlasError(
            f"store '{store.name}' has no results for this report; `longatlas results` shows what there is, "
            "and `longatlas demo` makes some"
        )
    sections = [*_shaped(rows), *_quality(rows)]
    made = datetime.fromtimestamp(now or float(rows["created"].max()), UTC)
    return _template().render(
        title=title or "longatlas report",
        made=f"{made:%Y-%m-%d %H:%M} UTC",
        version=metadata.version("longatlas"),
        rows=sum(section.rows for section in sections),
        methods=data.names_with_rows(rows),
        sections=sections,
        light=LIGHT,
        dark=DARK,
    )


def _shaped(rows: pd.DataFrame) -> Iterator[Section]:
    for setting, own in _by_setting(rows[rows["measure"].isin(measures.shaped())]):
        pictures = list(_costs(_at_most(own)))
        tables = {
            "Growth with T, claimed and fitted": plots.growth_table(own),
            f"Less than {BASELINE}: from which T on": plots.crossover_table(own, BASELINE),
            "Failed": plots.failure_table(own),
            "Values": plots.values_table(own),
        }
        yield _section("Time and memory", setting, own, pictures, tables)


def _costs(rows: pd.DataFrame) -> Iterator[Picture]:
    for view in plots.VIEWS:
        values, failed = _values(rows, view)
        if len(values) or len(failed):
            words = plots.alt_text(view, values, failed)
            yield _picture(view.title, words, lambda theme, view=view: _scaling(rows, view, theme))


def _values(rows: pd.DataFrame, view: plots.View) -> tuple[pd.DataFrame, pd.DataFrame]:
    values = analysis.measured(rows, view.metric, view.phase)
    return values, analysis.failures(rows, view.measure, view.phase)


def _scaling(rows: pd.DataFrame, view: plots.View, theme: Theme) -> alt.LayerChart:
    values, failed = _values(rows, view)
    return charts.scaling(
        values, failed, title=plots.axis_title(view), unit=view.unit, theme=theme, order=data.methods_order()
    )


def _quality(rows: pd.DataFrame) -> Iterator[Section]:
    quality = rows[rows["measure"] == QUALITY.name]
    for task in dict.fromkeys(quality["phase"]):
        for setting, own in _by_setting(quality[quality["phase"] == task]):
            pictures = [*_metrics(_at_most(own), task), *_depths(own)]
            tables = {"Failed": plots.failure_table(own), "Values": plots.values_table(own)}
            yield _section(plots.task_title(task), setting, own, pictures, tables)


def _metrics(rows: pd.DataFrame, task: str) -> Iterator[Picture]:
    elsewhere = {"", CHANCE, *about_training(rows["metric"]), *analysis.depths(rows)["metric"]}
    for metric in dict.fromkeys(rows["metric"]):
        values = analysis.measured(rows, metric, task)
        if metric in elsewhere or values.empty:
            continue
        share = metric.startswith("accuracy")
        yield _picture(
            metric.replace("_", " "),
            f"{metric} against T: {', '.join(dict.fromkeys(values['method']))}. The numbers are in the table.",
            lambda theme, v=values, m=metric, s=share: charts.buckets(
                v, title=m.replace("_", " "), theme=theme, order=data.methods_order(), share=s
            ),
        )


def _depths(rows: pd.DataFrame) -> Iterator[Picture]:
    by_depth = analysis.depths(rows)
    for name in data.names_with_rows(by_depth)[:AT_MOST]:
        own = by_depth[by_depth["method"] == name]
        words = f"{name}: accuracy by depth and T, from {own['value'].min():.0%} to {own['value'].max():.0%}."
        yield _picture(name, words, lambda theme, o=own: charts.depth_map(o, theme=theme), width=SMALL)


def _section(
    title: str, setting: dict[str, Any], rows: pd.DataFrame, pictures: list[Picture], tables: dict[str, pd.DataFrame]
) -> Section:
    caption = (
        f"{data.setting_text(setting)}. {plots.repeats(rows)} Of several implementations or seeds one value stands."
    )
    if rows["method"].nunique() > AT_MOST:
        caption += f" Charts show the first {AT_MOST} of {rows['method'].nunique()} methods, the tables all."
    stale = data.names_with_rows(rows[rows["stale"]])
    if stale:
        caption += f" Stale: {', '.join(stale)}. {selection.STALE}"
    shown = {name: _told(table) for name, table in tables.items() if len(table)}
    try:
        plan = plan_of([spec for spec in dict.fromkeys(rows["method"]) if plots.known(spec)], setting, rows)
    except LongAtlasError:
        return Section(title, caption, len(rows), pictures, shown)
    return Section(title, caption, len(rows), pictures, shown, shlex.join(plan.to_command()), plan.hash)


def _told(table: pd.DataFrame) -> pd.DataFrame:
    """A table of texts: numbers with four digits, nothing for what is missing."""
    return table.map(lambda value: "" if pd.isna(value) else f"{value:.4g}" if isinstance(value, float) else str(value))


def _by_setting(rows: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Rows that compare: of one machine, device, dtype, number of threads, level and case."""
    if rows.empty:
        return
    case = [json.dumps(value, sort_keys=True) for value in rows["case"]]
    for values, own in rows.assign(_case=case).groupby([*SETTING, "_case"], sort=False):
        *facts, text = values
        yield (
            dict(zip(SETTING, facts, strict=True)) | {"case": json.loads(text)},
            analysis.one_value_each(own.drop(columns="_case")),
        )


def _at_most(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that plots show: of the first methods only, the tables have all."""
    return rows[rows["method"].isin(data.names_with_rows(rows)[:AT_MOST])]


def _picture(title: str, words: str, make: Any, *, width: int = WIDTH) -> Picture:
    light, dark = (_svg(make(theme).properties(width=width), words) for theme in (LIGHT, DARK))
    return Picture(title, words, light, dark)


def _svg(chart: alt.LayerChart, words: str) -> Markup:
    """A chart as SVG that a screen reader announces by its words."""
    made = vl_convert.vegalite_to_svg(chart.to_json(), allowed_base_urls=[])
    head, _, rest = made.partition("<svg ")
    return Markup(head) + Markup('<svg role="img" aria-label="{}" ').format(words) + Markup(rest)


def _template() -> jinja2.Template:
    loader = jinja2.PackageLoader("longatlas_dashboard", "templates")
    return jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template(
        "report.html"
    )
