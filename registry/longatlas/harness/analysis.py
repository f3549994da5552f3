"""What rows mean: one value of several, exponents, crossovers, ratios, Pareto frontier. Frames in, frames out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
from scipy.stats import linregress
from scipy.stats import t as student

from longatlas.measures import MEASURES
from longatlas.words import ENDING, FAILED, OK, OOM

# A cost whose log-log slope is below this is taken not to grow with T.
FLAT_SLOPE = 0.05
_SERIES = ("method", "impl", "phase", "metric")
_MEASURED = ["method", "measure", "phase"]


def measured(frame: pd.DataFrame, metric: str, phase: str = "") -> pd.DataFrame:
    """Rows that hold a finite value of `metric`, by method and T."""
    chosen = (frame["metric"] == metric) & (frame["status"] == OK) & np.isfinite(frame["value"].astype(float))
    if phase:
        chosen &= frame["phase"] == phase
    return frame[chosen].sort_values(["method", "T"], kind="stable").reset_index(drop=True)


def failures(frame: pd.DataFrame, measure: str = "", phase: str = "") -> pd.DataFrame:
    """Rows of cells that gave no number, with status and reason."""
    chosen = frame["status"].isin(FAILED)
    if measure:
        chosen &= frame["measure"] == measure
    if phase:
        chosen &= frame["phase"] == phase
    return frame[chosen].reset_index(drop=True)


def variants(frame: pd.DataFrame) -> list[str]:
    """The implementations, with the policy where one has several, of methods that were measured in more than one."""
    found = frame.assign(variant=_variant(frame)).groupby(_MEASURED)["variant"].unique()
    return sorted({name for names in found if len(names) > 1 for name in names})


def one_value_each(frame: pd.DataFrame, preferred: str = "") -> pd.DataFrame:
    """Rows of one setting with one value per method, measure, phase, metric and T, as plots and fits take them.

    frame      flat rows, the oldest first
    preferred  one of variants(frame): which to take of a method that was measured in several; else, and where the
               method lacks it, the one with numbers at most T, of equals the newest

    Rows of an older source of a method are left out. Several seeds become one row: `value` is their median (of
    quality, their mean), `low` the least and `high` the greatest of their values and intervals, `n` the sum.
    """
    if frame.empty:
        return frame
    rows = newest_source(frame)
    rows = rows.assign(variant=_variant(rows), age=rows.index, good=rows["T"].where(rows["status"] == OK))
    sizes = rows.groupby([*_MEASURED, "variant"], as_index=False).agg(lengths=("good", "nunique"), age=("age", "max"))
    sizes["wanted"] = sizes["variant"] == preferred
    best = sizes.sort_values(["wanted", "lengths", "age"]).drop_duplicates(_MEASURED, keep="last")
    rows = rows.merge(best[[*_MEASURED, "variant"]], on=[*_MEASURED, "variant"])
    return _over_seeds(rows).sort_values("age").drop(columns=["variant", "age", "good"]).reset_index(drop=True)


def newest_source(frame: pd.DataFrame) -> pd.DataFrame:
    """Of each measurement in each implementation only the rows of the method's newest source.

    frame  flat rows, the oldest first
    """
    rows = frame.reset_index(drop=True)
    if rows.empty:
        return rows
    newest = rows.groupby([*_MEASURED, _variant(rows)])["source"].transform("last")
    return rows[rows["source"] == newest].reset_index(drop=True)


def _variant(frame: pd.DataFrame) -> pd.Series:
    """How each row was measured: its implementation, and its policy where that was measured under several."""
    policies = frame.groupby([*_MEASURED, "impl"])["policy"].transform("nunique")
    return frame["impl"].where(policies <= 1, frame["impl"] + ", " + frame["policy"])


def _over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    keys = [*_MEASURED, "metric", "T", "status"]
    repeated = rows.duplicated(keys, keep=False)
    if not repeated.any():
        return rows
    several = rows[repeated].astype({"value": float, "low": float, "high": float})
    has_interval = several[["low", "high"]].notna().all(axis=1).groupby([several[key] for key in keys]).transform("any")
    ends = {name: several[name].fillna(several["value"].where(has_interval)) for name in ("low", "high")}
    several = several.assign(**ends)
    groups = several.groupby(keys)
    merged = several.drop_duplicates(keys, keep="last").set_index(keys)
    averaged = [measure.name for measure in MEASURES.values() if measure.mean]
    mean, median = (groups["value"].agg(way).reindex(merged.index) for way in ("mean", "median"))
    merged["value"] = mean.where(merged.index.get_level_values("measure").isin(averaged), median)
    merged = merged.assign(low=groups["low"].min(), high=groups["high"].max(), n=groups["n"].sum())
    return pd.concat([rows[~repeated], merged.reset_index()])


@dataclass(frozen=True)
class Fit:
    """value ~ T^exponent; low and high bound the 95% interval (None under three lengths)."""

    exponent: float
    low: float | None
    high: float | None
    n: int


def fit_exponent(lengths: Sequence[float], values: Sequence[float]) -> Fit | None:
    """Least squares of log(value) on log(T). None with fewer than two different lengths or a value <= 0."""
    x, y = np.asarray(lengths, dtype=float), np.asarray(values, dtype=float)
    if len(x) < 2 or len(np.unique(x)) < 2 or (x <= 0).any() or not (y > 0).all():
        return None
    x, y = np.log(x), np.log(y)
    fit = linregress(x, y)
    free = len(x) - 2
    if free < 1:
        return Fit(float(fit.slope), None, None, len(x))
    half = float(student.ppf(0.975, free) * fit.stderr)
    return Fit(float(fit.slope), float(fit.slope) - half, float(fit.slope) + half, len(x))


def exponents(frame: pd.DataFrame) -> pd.DataFrame:
    """Fitted growth with T of each series. Columns: method, impl, phase, metric, exponent, low, high, n."""
    records = []
    for names, rows in frame[frame["value"].notna()].groupby(list(_SERIES), sort=False):
        fit = fit_exponent(rows["T"].tolist(), rows["value"].tolist())
        if fit is not None:
            keys = dict(zip(_SERIES, cast("tuple[str, ...]", names), strict=True))
            records.append({**keys, "exponent": fit.exponent, "low": fit.low, "high": fit.high, "n": fit.n})
    return pd.DataFrame(records, columns=[*_SERIES, "exponent", "low", "high", "n"])


def needed_bytes(frame: pd.DataFrame, phase: str) -> pd.DataFrame:
    """What a phase takes in all: its peak, weights and inputs, and for a decode the state that it starts from.

    Columns as measured(), metric `needed_bytes`. A decode whose state was not measured is left out.
    """
    rows = measured(frame, "peak_bytes", phase)
    before = [("weight_bytes", phase, 0.0), ("input_bytes", phase, 0.0)]
    if phase == "decode":
        before.append(("state_bytes", "prefill", np.nan))
    total = rows["value"].astype(float)
    for metric, of_phase, missing in before:
        part = measured(frame, metric, of_phase).drop_duplicates(["method", "T"], keep="last")
        joined = rows[["method", "T"]].merge(part[["method", "T", "value"]], on=["method", "T"], how="left")
        total = total + joined["value"].astype(float).fillna(missing).to_numpy()
    return rows.assign(metric="needed_bytes", value=total)[total.notna()].reset_index(drop=True)


def ratio_to(frame: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Rows with the column `ratio`: value over the baseline's at the same phase, metric and T, or NaN."""
    keys = ["phase", "metric", "T"]
    base = frame[frame["method"] == baseline].drop_duplicates(keys, keep="last").set_index(keys)["value"]
    joined = frame.join(base.rename("baseline_value"), on=keys)
    return joined.assign(ratio=joined["value"] / joined["baseline_value"]).drop(columns="baseline_value")


def crossovers(frame: pd.DataFrame, baseline: str, failed: pd.DataFrame | None = None) -> pd.DataFrame:
    """From which T on each series stays below the baseline.

    frame   values such that less is better
    failed  cells of the same phase without a number: who ran out of memory or time is above who has one

    Columns: method, impl, phase, metric, from_T (None: not within what was measured), ratio (at longest_T, the
    longest T that both have a number at). Series without such a T are left out.
    """
    records = []
    ended = frame[:0] if failed is None else failed[failed["status"].isin(ENDING)]
    lost = {name: set(rows["T"]) for name, rows in ended.groupby("method")}
    others = ratio_to(frame, baseline)
    for names, rows in others[others["method"] != baseline].groupby(list(_SERIES), sort=False):
        both = dict(zip(rows["T"], rows["ratio"], strict=True))
        ratios = {T: ratio for T, ratio in both.items() if not np.isnan(ratio)}
        if not ratios:
            continue
        keys = dict(zip(_SERIES, cast("tuple[str, ...]", names), strict=True))
        longest = max(ratios)
        ahead = dict.fromkeys(set(both) & lost.get(baseline, set()), True)
        behind = dict.fromkeys(lost.get(keys["method"], set()) - lost.get(baseline, set()), False)
        below = {**behind, **ahead, **{T: ratio < 1 for T, ratio in ratios.items()}}
        start = None
        for T in sorted(below, reverse=True):
            if not below[T]:
                break
            start = int(T)
        records.append({**keys, "from_T": start, "ratio": ratios[longest], "longest_T": int(longest)})
    table = pd.DataFrame(records, columns=[*_SERIES, "from_T", "ratio", "longest_T"])
    return table.astype({"from_T": "Int64"})


def ratios(frame: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Rows whose value is the ratio to the baseline's at the same phase, metric and T; without an interval.

    Rows whose baseline was not measured are left out, as are the baseline's own.
    """
    found = ratio_to(frame, baseline)
    found = found[found["ratio"].notna() & (found["method"] != baseline)]
    return found.assign(value=found["ratio"], low=np.nan, high=np.nan).drop(columns="ratio").reset_index(drop=True)


def reference_slopes(frame: pd.DataFrame, powers: Sequence[float], baseline: str) -> pd.DataFrame:
    """Lines of T^p through the first point of the baseline, or of the first method without it.

    Columns: power, T, value; two points a line, at the least and the greatest T of the frame.
    """
    columns = ["power", "T", "value"]
    if frame.empty:
        return pd.DataFrame(columns=columns)
    own = frame[frame["method"] == baseline]
    start = (own if len(own) else frame).sort_values("T").iloc[0]
    ends = (int(frame["T"].min()), int(frame["T"].max()))
    lines = [(power, T, float(start["value"]) * (T / int(start["T"])) ** power) for power in powers for T in ends]
    return pd.DataFrame(lines, columns=columns)


def largest_that_fits(frame: pd.DataFrame, budget: float, failed: pd.DataFrame | None = None) -> pd.DataFrame:
    """For each series of a cost that grows with T: the greatest T within a budget.

    frame   one value per series and T
    failed  cells without a number: nothing is expected to fit from the least T on that ran out of memory

    Columns: method, impl, phase, metric, measured_T (None: not even the shortest), value (at measured_T), longest_T
    (what was measured at most), and estimated_T on the log-log line through the measured points, drawn on with its
    last slope; inf where that slope is not above 0.05, None with fewer than two points and where nothing fits.
    """
    records = []
    ended = frame[:0] if failed is None else failed[failed["status"] == OOM]
    limits = {name: int(rows["T"].min()) for name, rows in ended.groupby("method")}
    for names, rows in frame.groupby(list(_SERIES), sort=False):
        points = rows[rows["value"] > 0].sort_values("T")
        lengths, values = points["T"].to_numpy(float), points["value"].to_numpy(float)
        inside = np.flatnonzero(np.maximum.accumulate(values) <= budget) if len(values) else np.array([], int)
        last = int(inside[-1]) if len(inside) else None
        estimated = _length_at(lengths, values, last, budget)
        limit = limits.get(cast("tuple[str, ...]", names)[0])
        if estimated is not None and limit is not None and estimated >= limit:
            estimated = float(max((T for T in lengths if limit > T), default=np.nan))
        records.append(
            {
                **dict(zip(_SERIES, cast("tuple[str, ...]", names), strict=True)),
                "measured_T": None if last is None else int(lengths[last]),
                "value": None if last is None else float(values[last]),
                "longest_T": int(lengths[-1]) if len(lengths) else None,
                "estimated_T": estimated,
            }
        )
    columns = [*_SERIES, "measured_T", "value", "longest_T", "estimated_T"]
    table = pd.DataFrame(records, columns=columns)
    return table.astype({"measured_T": "Int64", "longest_T": "Int64", "estimated_T": "float64", "value": "float64"})


def _length_at(lengths: Any, values: Any, last: int | None, budget: float) -> float | None:
    if len(lengths) < 2:
        return None
    left = min(last or 0, len(lengths) - 2)
    slope = np.log(values[left + 1] / values[left]) / np.log(lengths[left + 1] / lengths[left])
    if slope <= FLAT_SLOPE:
        if last is None:
            return None
        return float("inf") if last == len(lengths) - 1 else float(lengths[left])
    return float(lengths[left] * (budget / values[left]) ** (1 / slope))


def effective_lengths(frame: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """The greatest T up to which a method's value never falls below `threshold`, one line per method.

    Columns: method, effective_T (None: below it at the shortest already), longest_T.
    """
    records = []
    for name, rows in frame.groupby("method", sort=False):
        ordered = rows.sort_values("T")
        held = [int(T) for T, good in zip(ordered["T"], (ordered["value"] >= threshold).cumprod(), strict=True) if good]
        records.append((name, held[-1] if held else None, int(ordered["T"].iloc[-1])))
    table = pd.DataFrame(records, columns=["method", "effective_T", "longest_T"])
    return table.astype({"effective_T": "Int64", "longest_T": "Int64"})


def pareto(frame: pd.DataFrame, x: str, y: str, *, x_less: bool = True, y_less: bool = True) -> pd.DataFrame:
    """The rows that no other row beats in both columns, along x; `*_less` says that less is better.

    Of rows with the same two values all are kept.
    """
    points = frame.dropna(subset=[x, y])
    points = points.sort_values([x, y], ascending=[x_less, y_less], kind="stable")
    kept, best, at = [], np.inf, None
    for place, (cost, value) in enumerate(zip(points[x].tolist(), points[y].tolist(), strict=True)):
        score = value if y_less else -value
        if score < best or (score == best and cost == at):
            kept.append(place)
            best, at = score, cost
    return points.iloc[kept].reset_index(drop=True)


def depths(frame: pd.DataFrame, metric: str = "accuracy") -> pd.DataFrame:
    """Rows of `{metric}_depth_{k}` with the column `depth` = k: where in the text the answer stood."""
    number = frame["metric"].astype(str).str.extract(rf"^{re.escape(metric)}_depth_(\d{{1,6}})$", expand=False)
    rows = frame.assign(depth=number)[number.notna() & (frame["status"] == OK)]
    return rows.astype({"depth": int}).reset_index(drop=True)


def at_length(frame: pd.DataFrame, metric: str, phase: str, length: int | None = None) -> pd.DataFrame:
    """One value per method and impl, at `length` or at the longest T that all methods of the frame share.

    Without a shared T it is the longest T of any. Columns: method, impl, T, value, low, high.
    """
    rows = measured(frame, metric, phase)
    columns = ["method", "impl", "T", "value", "low", "high"]
    if length is None:
        length = shared_length(rows)
    return rows.loc[rows["T"] == length, columns].reset_index(drop=True)


def shared_length(rows: pd.DataFrame) -> int | None:
    """The longest T that all methods of the rows have, else the longest of any; None without rows."""
    sets = [set(part["T"]) for _, part in rows.groupby("method")]
    return int(max(set.intersection(*sets) or set.union(*sets))) if sets else None


def trade_off(cost: pd.DataFrame, quality: pd.DataFrame, *, train_length: int | None = None) -> pd.DataFrame:
    """Cost and quality side by side, one row per method that has both.

    cost     from at_length
    quality  rows of one quality metric; at `train_length`, or their least T
    Columns: method, cost, cost_low, cost_high, cost_T, quality, quality_low, quality_high, quality_T.
    """
    names = {"value": "cost", "low": "cost_low", "high": "cost_high", "T": "cost_T"}
    left = cost.rename(columns=names).drop_duplicates("method", keep="last").drop(columns="impl")
    length = train_length or (quality["T"].min() if len(quality) else None)
    right = quality[quality["T"] == length].drop_duplicates("method", keep="last")
    right = right[["method", "value", "low", "high", "T"]].rename(
        columns={"value": "quality", "low": "quality_low", "high": "quality_high", "T": "quality_T"}
    )
    return left.merge(right, on="method").reset_index(drop=True)
