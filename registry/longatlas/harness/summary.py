"""Rows as tables for people: one line per method, the longest length, and quality by position."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import pandas as pd

from longatlas.combination import parse_spec
from longatlas.errors import LongAtlasError
from longatlas.harness.analysis import exponents
from longatlas.measures import MEASURES, shaped, views
from longatlas.tasks.cards import CHANCE, about_training
from longatlas.words import BASELINE, OK

SETTING = ("level", "policy", "device", "dtype", "threads", "seed", "machine")


@dataclass(frozen=True)
class Table:
    """A table of text: title, columns, lines."""

    title: str
    columns: list[str]
    lines: list[list[str]]


def summarise(frame: pd.DataFrame) -> list[Table]:
    """The tables that a set of rows gives: speed, memory, growth with T, one per quality task, and what failed."""
    tables = [*_against_length(frame), *_growth(frame), *_quality(frame), *_failures(frame)]
    return [table for table in tables if table.lines]


def _against_length(frame: pd.DataFrame) -> Iterator[Table]:
    """The views of every measure that has a shape and a T."""
    for view in views():
        chosen = (frame["measure"] == view.measure) & (frame["metric"] == view.metric) & (frame["phase"] == view.phase)
        rows = frame[chosen]
        timed = MEASURES[view.measure].timed
        ratio = f" (times as fast as {BASELINE})" if timed and BASELINE in set(rows["method"]) else ""
        yield from _by_length(rows, view.table + ratio, _time if timed else partial(_sized, view.size))


def _growth(frame: pd.DataFrame) -> Iterator[Table]:
    """Fitted exponents of T beside what the cards claim; a method's own setting is its newest one."""
    shown = {"prefill_ms": "prefill time", "train_ms": "train time", "state_bytes": "state"}
    rows = frame[frame["metric"].isin(list(shown)) & (frame["level"] == "decoder")]
    rows = rows[rows["case"].map(lambda case: case.get("ranks", 1) == 1).astype(bool)]
    rows = rows.drop_duplicates(["method", "impl", "phase", "metric", "T"], keep="last")
    fits = exponents(rows[rows["value"] > 0]) if rows["T"].nunique() > 1 else pd.DataFrame()
    lines: dict[str, list[str]] = {}
    for fit in fits.itertuples():
        line = lines.setdefault(str(fit.method), [str(fit.method), *_claimed(str(fit.method)), "–", "–", "–"])
        line[3 + list(shown).index(str(fit.metric))] = _exponent(fit)
    columns = ["method", "time claimed", "state claimed", *shown.values()]
    yield Table("growth: exponent of T (± 95%), claimed and fitted", columns, list(lines.values()))


def _claimed(spec: str) -> tuple[str, str]:
    try:
        costs = [part.method.cost for part in parse_spec(spec).parts]
    except LongAtlasError:  # of a plugin that is not installed any more
        return "–", "–"
    return " + ".join(cost.time for cost in costs), " + ".join(cost.state for cost in costs)


def _exponent(fit: Any) -> str:
    return f"{fit.exponent:.2f}" + ("" if pd.isna(fit.low) else f" ± {(fit.high - fit.low) / 2:.2f}")


def _quality(frame: pd.DataFrame) -> Iterator[Table]:
    quality = frame[(~frame["measure"].isin(shaped())) & ~frame["metric"].str.contains("_depth_")]
    spread = "± 95%, or half the spread over seeds"
    titles = {
        "bits_per_byte": f"bits per byte by position ({spread})",
        "bits_per_byte_at_end": f"bits per byte at the end of each bucket ({spread})",
        "accuracy": f"accuracy ({spread})",
    }
    for phase in quality["phase"].unique():
        rows = quality[quality["phase"] == phase]
        chance = rows.loc[rows["metric"] == CHANCE, "value"].unique()
        for metric in filter(None, rows["metric"].unique()):
            if metric in (*about_training(rows["metric"]), CHANCE):
                continue
            guessing = f"; chance {chance[0]:.2g}" if metric == "accuracy" and len(chance) == 1 else ""
            title = f"{phase}: {titles.get(metric, metric)}{guessing}"
            yield from _by_length(rows[rows["metric"] == metric], title, _share)
        yield _training(rows, f"{phase}: training")


def _training(rows: pd.DataFrame, title: str) -> Table:
    """How the reported decoders were trained; a dash where accuracy never reached 95%, or there was no such thing."""
    metrics = about_training(rows["metric"])
    told = rows[rows["metric"].isin(metrics)]
    values = {(row.method, row.metric): f"{row.value:.4g} {row.reason}".rstrip() for row in told.itertuples()}
    methods = dict.fromkeys(told["method"])
    lines = [[method, *(values.get((method, metric), "–") for metric in metrics)] for method in methods]
    return Table(title, ["method", *(metric.replace("_", " ") for metric in metrics)], lines)


def _failures(frame: pd.DataFrame) -> Iterator[Table]:
    failed = frame[frame["status"] != OK]
    names = ["method", "measure", "phase", "status", "reason"]
    lines = []
    for values, rows in failed.groupby(names, sort=False):
        method, measure, phase, status, reason = map(str, cast("tuple[str, ...]", values))
        lengths = ", ".join(str(T) for T in sorted(set(rows["T"])) if T)
        lines.append([method, f"{measure} {phase}", lengths, status, reason])
    yield Table("not measured", ["method", "cell", "T", "status", "reason"], lines)


def _by_length(rows: pd.DataFrame, title: str, show: Callable[[Any, Any], str]) -> Iterator[Table]:
    """A line per method and a column per T; a table for each setting that rows were measured under."""
    settings = [{**{name: row[name] for name in SETTING}, **row["case"]} for _, row in rows.iterrows()]
    texts = pd.Series([json.dumps(setting, sort_keys=True) for setting in settings], index=rows.index)
    varied = sorted(key for key in set().union(*settings) if len({str(s.get(key)) for s in settings}) > 1)
    for text in texts.unique():
        known = json.loads(text)
        told = [f"{key} {known[key]}" for key in varied if key != "corpus_digest" and known.get(key) not in (None, "")]
        yield _one_setting(rows[texts == text], " · ".join([title, *told]), show)


def _one_setting(rows: pd.DataFrame, title: str, show: Callable[[Any, Any], str]) -> Table:
    rows = rows[rows["value"].notna()]
    lengths = sorted(rows["T"].unique())
    values = {(row.method, row.impl, row.T): row for row in rows.itertuples()}
    series = list(dict.fromkeys((method, impl) for method, impl, _ in values))
    methods = [method for method, _ in series]
    baseline = next((pair for pair in series if pair[0] == BASELINE), (BASELINE, ""))
    stale = {pair for pair in series if any(getattr(values.get((*pair, T)), "stale", False) for T in lengths)}
    lines = [
        [
            str(method) + (f" ({impl})" if methods.count(method) > 1 else "") + " (stale)" * ((method, impl) in stale),
            *(show(values.get((method, impl, T)), values.get((*baseline, T))) for T in lengths),
        ]
        for method, impl in series
    ]
    return Table(title, ["method", *(f"T={T}" for T in lengths)], lines)


def _time(row: Any, baseline: Any) -> str:
    if row is None:
        return "–"
    return f"{row.value:.3g}" + (f" ({baseline.value / row.value:.2f}x)" if baseline is not None else "")


def _sized(size: float, row: Any, baseline: Any) -> str:
    return "–" if row is None else f"{row.value / size:.4g}"


def _share(row: Any, baseline: Any) -> str:
    if row is None:
        return "–"
    half = (row.high - row.low) / 2 if row.low is not None and row.high is not None else math.nan
    return f"{row.value:.3f}" + ("" if math.isnan(half) else f" ± {half:.3f}")
