"""Compares measurements one by one: better, worse, the same within their intervals, missing or new."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from longatlas.compare.metrics import LESS, direction
from longatlas.errors import LongAtlasError

if TYPE_CHECKING:
    import pandas as pd

    from longatlas.compare.sides import Side

BETTER, WORSE, SAME, DIFFERENT, MISSING, NEW = "better", "worse", "same", "different", "missing", "new"
BASELINE_METHOD = "vanilla"
FAILED = ("oom", "timeout", "crash", "unsupported", "incorrect", "skipped")

# What makes two rows the same measurement. Across machines neither the machine nor its threads can be asked for.
_PLACE = ("method", "impl", "measure", "phase", "level", "policy", "T", "metric")
_CONDITIONS = ("case", "device", "dtype", "seed")
_MACHINE = ("machine", "threads")

Key = tuple[Any, ...]


@dataclass(frozen=True)
class Value:
    """A value with its interval; low and high are None where nothing is known of it."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Line:
    """One measurement on both sides. `metric` is "" where the line is about a cell's status."""

    method: str
    impl: str
    measure: str
    phase: str
    level: str
    T: int
    metric: str
    unit: str
    case: str
    baseline: float | None
    candidate: float | None
    baseline_status: str
    candidate_status: str
    verdict: str
    direction: int

    @property
    def change(self) -> float | None:
        """Candidate over baseline, less one."""
        if self.baseline is None or self.candidate is None or not self.baseline:
            return None
        return self.candidate / self.baseline - 1

    def as_dict(self) -> dict[str, Any]:
        """All fields and the relative change."""
        return {**asdict(self), "change": self.change}


@dataclass(frozen=True)
class Comparison:
    """All lines. `across` says that the sides are of different machines: values are ratios to vanilla then."""

    baseline: str
    candidate: str
    across: bool
    lines: tuple[Line, ...]

    def of(self, *verdicts: str) -> list[Line]:
        """The lines with one of these verdicts."""
        return [line for line in self.lines if line.verdict in verdicts]


def compare(baseline: Side, candidate: Side, methods: Sequence[str] = ()) -> Comparison:
    """Compare two sides, each measurement with its like.

    methods  only these specs; a bare name matches every spec of that method

    Where the sides share no machine only ratios to `vanilla`, taken on each machine by itself, are compared. Raises
    LongAtlasError when the sides have no measurement in common.
    """
    rows = [_chosen(side.rows, methods) for side in (baseline, candidate)]
    if baseline.is_shipped:  # it holds many cases and tasks: only those that were measured here are asked for
        rows[0] = _measured_like(rows[0], rows[1])
    across = baseline.is_shipped or not set(rows[0]["machine"]) & set(rows[1]["machine"])
    before, after = (_values(frame, across) for frame in rows)
    was, now = (_statuses(frame, across) for frame in rows)
    if not (before.keys() | was.keys()) & (after.keys() | now.keys()):
        raise LongAtlasError(
            f"{baseline.name} and {candidate.name} have no measurement in common; measure the same methods, phases, "
            "lengths and case"
        )
    lines = (*_status_lines(was, now), *_value_lines(before, after, was, now))
    return Comparison(baseline.name, candidate.name, across, lines)


def _chosen(rows: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    if not methods:
        return rows
    bare = [name for name in methods if not set(name) & {":", "+"}]
    names = rows["method"].str.partition(":")[0].where(~rows["method"].str.contains("+", regex=False))
    return rows[rows["method"].isin(list(methods)) | names.isin(bare)]


def _measured_like(baseline: pd.DataFrame, candidate: pd.DataFrame) -> pd.DataFrame:
    """Rows of methods, measures, phases, lengths and cases that the candidate has any of, each by itself."""
    alike = baseline["case"].map(_text).isin(set(candidate["case"].map(_text)))
    for name in ("method", "measure", "phase", "level", "T"):
        alike &= baseline[name].isin(set(candidate[name]))
    return baseline[alike]


def _text(case: Any) -> str:
    return json.dumps(case, sort_keys=True)


def _key(row: Any, across: bool, *, metric: str | None = None) -> Key:
    place = (*(getattr(row, name) for name in _PLACE[:-1]), row.metric if metric is None else metric)
    conditions = (_text(row.case), *(getattr(row, name) for name in _CONDITIONS[1:]))
    machine = () if across else tuple(getattr(row, name) for name in _MACHINE)
    return (*place, *conditions, *machine)


def _values(rows: pd.DataFrame, across: bool) -> dict[Key, tuple[Value, str]]:
    """Key -> value and unit of every row that holds a value; ratios to vanilla of the same machine when across."""
    good = rows[(rows["status"] == "ok") & (rows["metric"] != "") & rows["value"].notna()]
    found: dict[Key, tuple[Value, str]] = {}
    base = {_beside(row): _value(row) for row in good.itertuples() if row.method == BASELINE_METHOD}
    for row in good.itertuples():
        value: Value | None = _value(row)
        if across:
            value = None if row.method == BASELINE_METHOD else _ratio(_value(row), base.get(_beside(row)))
        if value is not None:
            found[_key(row, across)] = (value, f"x {BASELINE_METHOD}" if across else str(row.unit))
    return found


def _beside(row: Any) -> Key:
    """What a row shares with vanilla's row of the same measurement."""
    names = ("measure", "phase", "level", "policy", "T", "metric", "device", "dtype", "seed", *_MACHINE)
    return (*(getattr(row, name) for name in names), _text(row.case))


def _value(row: Any) -> Value:
    low, high = (None if value is None or value != value else float(value) for value in (row.low, row.high))
    return Value(float(row.value), low, high)


def _ratio(value: Value, base: Value | None) -> Value | None:
    if base is None or base.value == 0:
        return None
    low = value.low / base.high if value.low is not None and base.high else None
    high = value.high / base.low if value.high is not None and base.low else None
    return Value(value.value / base.value, low, high)


def _statuses(rows: pd.DataFrame, across: bool) -> dict[Key, str]:
    """Key of a cell -> its status. A quality cell's rows carry several T: it is one cell."""
    found: dict[Key, str] = {}
    for row in rows.itertuples():
        key = _key(row, across, metric="")
        if row.measure == "quality":
            key = (*key[:6], 0, *key[7:])
        found[key] = str(row.status)
    return found


def _status_lines(was: dict[Key, str], now: dict[Key, str]) -> Iterator[Line]:
    for key in dict.fromkeys([*was, *now]):
        before, after = was.get(key, ""), now.get(key, "")
        if before == after == "ok":
            continue
        yield _line(key, "", None, None, before, after, _status_verdict(before, after))


def _status_verdict(before: str, after: str) -> str:
    if not after:
        return MISSING
    if not before:
        return NEW
    if before == after:
        return SAME
    return WORSE if before == "ok" else BETTER if after == "ok" else DIFFERENT


def _value_lines(
    before: dict[Key, tuple[Value, str]],
    after: dict[Key, tuple[Value, str]],
    was: dict[Key, str],
    now: dict[Key, str],
) -> Iterator[Line]:
    for key in dict.fromkeys([*before, *after]):
        old, unit = before.get(key, (None, ""))
        new, unit = after.get(key, (None, unit))
        cell = (*key[:7], "", *key[8:]) if key[2] != "quality" else (*key[:6], 0, "", *key[8:])
        statuses = was.get(cell, ""), now.get(cell, "")
        if ((old is None or new is None) and "" in statuses) or set(statuses) & set(FAILED):
            continue  # the cell's own line says it
        verdict = _verdict(old, new, direction(str(key[7])))
        yield _line(key, unit, old, new, *statuses, verdict)


def _verdict(old: Value | None, new: Value | None, better: int) -> str:
    if new is None:
        return MISSING
    if old is None:
        return NEW
    if old.value == new.value or _overlap(old, new):
        return SAME
    if better == 0:
        return DIFFERENT
    return WORSE if (new.value > old.value) == (better == LESS) else BETTER


def _overlap(old: Value, new: Value) -> bool:
    if old.low is None or old.high is None or new.low is None or new.high is None:
        return False
    return old.low <= new.high and new.low <= old.high


def _line(key: Key, unit: str, old: Value | None, new: Value | None, before: str, after: str, verdict: str) -> Line:
    method, impl, measure, phase, level, _, length, metric, case = key[:9]
    return Line(
        method=method,
        impl=impl,
        measure=measure,
        phase=phase,
        level=level,
        T=int(length),
        metric=metric,
        unit=unit,
        case=case,
        baseline=old.value if old else None,
        candidate=new.value if new else None,
        baseline_status=before,
        candidate_status=after,
        verdict=verdict,
        direction=direction(metric),
    )
