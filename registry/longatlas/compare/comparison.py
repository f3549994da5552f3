"""Compares measurements one by one: better, worse, the same within their intervals, missing or new."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from longatlas.compare.identity import MACHINE, METHOD, SETTING, in_settings_of, is_chosen, with_identity
from longatlas.errors import LongAtlasError
from longatlas.measures import LESS, direction, metric_of, shaped
from longatlas.words import BASELINE, FAILED, OK

if TYPE_CHECKING:
    import pandas as pd

    from longatlas.compare.sides import Side

BETTER, WORSE, SAME, DIFFERENT, MISSING, NEW = "better", "worse", "same", "different", "missing", "new"
VERDICTS = (WORSE, MISSING, DIFFERENT, BETTER, NEW, SAME)  # what needs a look first
RATIO = f"x {BASELINE}"  # the unit of values that are compared between machines

_PLACE = (*METHOD, "measure", "phase", "level", "policy", "T", "metric")
_CONDITIONS = ("case_text", "device", "dtype", "seed")

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
    """All lines.

    across    the sides are of different machines: values are ratios to vanilla
    units     metric -> unit of every value of either side, of cells that one of them lacks too
    left_out  cells of either side that are not compared: of machines that the other lacks, or, of the shipped baseline,
              in settings that the candidate lacks
    """

    baseline: str
    candidate: str
    across: bool
    lines: tuple[Line, ...]
    units: dict[str, str]
    left_out: int

    def of(self, *verdicts: str) -> list[Line]:
        """The lines with one of these verdicts."""
        return [line for line in self.lines if line.verdict in verdicts]


def compare(baseline: Side, candidate: Side, methods: Sequence[str] = ()) -> Comparison:
    """Compare two sides, each measurement with its like.

    methods  only these specs; a bare name matches every spec of that method

    Where the sides share no machine only ratios to `vanilla`, taken on each machine by itself, are compared. Raises
    LongAtlasError when the sides have no measurement in common.
    """
    left, right = with_identity(baseline.rows), with_identity(candidate.rows)
    across, rows = _shared(left, right, baseline.is_shipped)
    before, after = ({k: v for k, v in _values(f, across).items() if is_chosen(k[0], methods)} for f in rows)
    was, now = ({k: v for k, v in _statuses(f, across).items() if is_chosen(k[0], methods)} for f in rows)
    if not (before.keys() | was.keys()) & (after.keys() | now.keys()):
        raise LongAtlasError(
            f"{baseline.name} and {candidate.name} have no measurement in common; measure the same methods, phases, "
            "lengths and case"
        )
    for side, frame in zip((baseline, candidate) if across else (), rows, strict=False):
        _check_base(side, frame)
    lines = (*_status_lines(was, now), *_value_lines(before, after, was, now))
    units = {str(key[7]): unit for values in (after, before) for key, (_, unit) in values.items()}
    left_out = left["cell"].nunique() + right["cell"].nunique() - sum(frame["cell"].nunique() for frame in rows)
    return Comparison(baseline.name, candidate.name, across, lines, units, left_out)


def _shared(left: pd.DataFrame, right: pd.DataFrame, is_shipped: bool) -> tuple[bool, list[pd.DataFrame]]:
    """Whether the sides are of different machines, and those of their rows that can be compared."""
    shared = set(left["machine"]) & set(right["machine"])
    if is_shipped:
        return True, [in_settings_of(left, right), right]
    if not shared:
        return True, [left, right]
    return False, [frame[frame["machine"].isin(shared)] for frame in (left, right)]


def _check_base(side: Side, rows: pd.DataFrame) -> None:
    if BASELINE not in set(rows["method"]):
        raise LongAtlasError(
            f"the sides are of different machines, so ratios to {BASELINE} are compared, and {side.name} has no "
            f"{BASELINE} here; measure it at the same lengths and case"
        )


def _key(row: Any, across: bool, *, metric: str | None = None) -> Key:
    place = (*(getattr(row, name) for name in _PLACE[:-1]), row.metric if metric is None else metric)
    return (*place, *(getattr(row, name) for name in (_CONDITIONS if across else (*_CONDITIONS, *MACHINE))))


def _values(rows: pd.DataFrame, across: bool) -> dict[Key, tuple[Value, str]]:
    """Key -> value and unit of every row that holds a value; ratios to vanilla of the same machine when across."""
    told = {name for name in rows["metric"].unique() if name and _is_compared(name, across)}
    good = rows[(rows["status"] == OK) & rows["metric"].isin(told) & rows["value"].notna()]
    found: dict[Key, tuple[Value, str]] = {}
    base = {_beside(row): _value(row) for row in good.itertuples() if row.method == BASELINE}
    for row in good.itertuples():
        value: Value | None = _value(row)
        if across:
            value = None if row.method == BASELINE else _ratio(_value(row), base.get(_beside(row)))
        if value is not None:
            found[_key(row, across)] = (value, RATIO if across else str(row.unit))
    return found


def _is_compared(metric: str, across: bool) -> bool:
    """Whether a metric says something about two sides, `across` two machines or on one."""
    return metric_of(metric).compare in (("always",) if across else ("always", "here"))


def _beside(row: Any) -> Key:
    """What a row shares with vanilla's row of the same measurement."""
    return tuple(getattr(row, name) for name in (*SETTING, "T", "metric", *MACHINE))


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
    cells = rows.assign(T=rows["cell_T"]).drop_duplicates("cell")
    return {_key(row, across, metric=""): str(row.status) for row in cells.itertuples()}


def _status_lines(was: dict[Key, str], now: dict[Key, str]) -> Iterator[Line]:
    for key in dict.fromkeys([*was, *now]):
        before, after = was.get(key, ""), now.get(key, "")
        if before == after == OK:
            continue
        yield _line(key, "", None, None, before, after, _status_verdict(before, after))


def _status_verdict(before: str, after: str) -> str:
    if not after:
        return MISSING
    if not before:
        return NEW
    if before == after:
        return SAME
    return WORSE if before == OK else BETTER if after == OK else DIFFERENT


def _value_lines(
    before: dict[Key, tuple[Value, str]],
    after: dict[Key, tuple[Value, str]],
    was: dict[Key, str],
    now: dict[Key, str],
) -> Iterator[Line]:
    for key in dict.fromkeys([*before, *after]):
        old, unit = before.get(key, (None, ""))
        new, unit = after.get(key, (None, unit))
        cell = (*key[:7], "", *key[8:]) if key[2] in shaped() else (*key[:6], 0, "", *key[8:])
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
    if math.isclose(old.value, new.value, rel_tol=1e-9) or _overlap(old, new):
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
