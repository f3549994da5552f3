"""Which method for a case: what was measured, what fits, and why; what was not measured is said, never guessed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from longatlas.combination import Combination, parse_spec
from longatlas.errors import LongAtlasError
from longatlas.harness import analysis
from longatlas.harness.plan import Plan
from longatlas.measures import MEASURES, SPEED
from longatlas.words import BASELINE, ENDING

COLUMNS = ("method", "ms", "bytes", "quality", "quality_T", "between")
# Of these the one that most candidates have: methods that answer prompts only have the second alone.
QUALITIES = ("bits_per_byte", "bits_per_byte_at_end")
TASK = "language_model"


@dataclass(frozen=True)
class Case:
    """What someone needs.

    T          tokens
    phase      train, prefill or decode: what they wait for
    memory     bytes that weights, inputs, the state before and what the phase makes may take; None = no limit
    may_train  methods may need training; else only those that go into a trained model as it is
    exact      only methods that compute what vanilla attention computes
    """

    T: int
    phase: str = "prefill"
    memory: float | None = None
    may_train: bool = True
    exact: bool = False


@dataclass(frozen=True)
class Answer:
    """What the measured rows say.

    fitting    one line per method that fits, the fastest first. Columns: method, ms, bytes (as Case.memory; NaN: not
               measured),
               quality (bits per byte, NaN: not measured), quality_T, between (its numbers lie on the line between two
               measured lengths)
    reasons    method -> why it is among them
    excluded   method -> why it is not
    unmeasured methods that might fit, without a time at this T
    plan       the one that measures them, None where there are none
    """

    fitting: pd.DataFrame
    reasons: dict[str, str] = field(default_factory=dict)
    excluded: dict[str, str] = field(default_factory=dict)
    unmeasured: tuple[str, ...] = ()
    plan: Plan | None = None

    def best(self, count: int) -> pd.DataFrame:
        """Of those that fit the fastest, the best in quality, the least in memory, and then the next fastest."""
        if self.fitting.empty:
            return self.fitting
        first = [self.fitting[name].idxmin() for name in ("ms", "quality", "bytes") if self.fitting[name].notna().any()]
        return self.fitting.loc[list(dict.fromkeys([*first, *self.fitting.index]))[:count]]


def choose(case: Case, candidates: Sequence[str], shaped: pd.DataFrame, quality: pd.DataFrame, plan: Plan) -> Answer:
    """Answer a case.

    candidates  specs to consider
    shaped      rows of time and memory of one setting
    quality     rows of the language model of one setting
    plan        a plan of that setting; what is missing is measured by it with other methods and T
    """
    scored = _scored(quality, candidates)
    bucket = _bucket(scored, candidates, case.T)
    times = analysis.measured(shaped, f"{case.phase}_ms", case.phase)
    needs = analysis.needed_bytes(shaped, case.phase)
    excluded: dict[str, str] = {}
    unmeasured: list[str] = []
    lines = []
    for spec in candidates:
        ms, between = value_at(times, spec, case.T)
        # A memory that could not be taken matters to who has a limit, and where there is no time either.
        timed = not np.isnan(ms) and not between
        failed = analysis.failures(shaped, SPEED.name if case.memory is None and not np.isnan(ms) else "", case.phase)
        # Where one seed has a time, another's failure does not rule the method out.
        failed = failed[(failed["measure"] != SPEED.name) | (failed["T"] < case.T) | (not timed)]
        reason = _by_card(case, spec) or _by_failure(case, spec, failed)
        if reason:
            excluded[spec] = reason
            continue
        size, _ = value_at(needs, spec, case.T)
        if np.isnan(ms) or (case.memory is not None and np.isnan(size)):
            unmeasured.append(spec)
        elif case.memory is not None and size > case.memory:
            excluded[spec] = f"needs {size / 2**20:,.1f} MiB, more than {case.memory / 2**20:,.1f} MiB"
        else:
            lines.append((spec, ms, size, *_quality_at(scored, spec, bucket), between))
    fitting = pd.DataFrame(lines, columns=list(COLUMNS)).sort_values("ms", ignore_index=True)
    return Answer(fitting, _reasons(fitting), excluded, tuple(unmeasured), _plan(case, unmeasured, plan))


def value_at(rows: pd.DataFrame, spec: str, T: int) -> tuple[float, bool]:
    """A method's value at T, and whether it lies on the log-log line between two measured lengths; NaN beyond them."""
    rows = rows[(rows["method"] == spec) & (rows["value"] > 0)].drop_duplicates("T", keep="last")
    lengths, values = rows["T"].to_numpy(float), rows["value"].to_numpy(float)
    if not len(lengths) or not lengths[0] <= T <= lengths[-1]:
        return float("nan"), False
    if T in lengths:
        return float(values[lengths == T][0]), False
    return float(np.exp(np.interp(np.log(T), np.log(lengths), np.log(values)))), True


def _scored(quality: pd.DataFrame, candidates: Sequence[str]) -> pd.DataFrame:
    """The rows of the candidates' quality."""
    own = quality[quality["method"].isin(candidates)]
    every = [analysis.measured(own, metric, TASK) for metric in QUALITIES]
    return max(every, key=lambda rows: int(rows["method"].nunique()))


def _bucket(rows: pd.DataFrame, candidates: Sequence[str], T: int) -> float:
    """Where quality is compared: the longest bucket up to T that all measured candidates have, else their shortest."""
    sets = [set(own["T"]) for _, own in rows[rows["method"].isin(candidates)].groupby("method")]
    shared = set.intersection(*sets) if sets else set()
    return float(max((t for t in shared if t <= T), default=min(shared, default=np.nan)))


def _quality_at(rows: pd.DataFrame, spec: str, bucket: float) -> tuple[float, float]:
    """Bits per byte in a bucket, and that bucket; NaN where there is none."""
    found = rows.loc[(rows["method"] == spec) & (rows["T"] == bucket), "value"]
    return (float(found.iloc[-1]), bucket) if len(found) else (float("nan"), float("nan"))


def _by_card(case: Case, spec: str) -> str:
    try:
        combination = parse_spec(spec)
    except LongAtlasError:
        return "its plugin is not installed"
    if case.exact and not combination.exact:
        return "computes something else than vanilla attention"
    if not case.may_train and not _is_baseline(combination):
        return {"train": "must be trained with the model", "adapt": "needs a tuning"}.get(combination.training, "")
    return ""


def _is_baseline(combination: Combination) -> bool:
    """The model as it is: it has been trained already."""
    return combination.name == BASELINE


def _by_failure(case: Case, spec: str, failed: pd.DataFrame) -> str:
    """Why it cannot be had at T: out of memory or time there or at a shorter T, or wrong."""
    failed = failed[(failed["method"] == spec) & (failed["T"] <= case.T)].sort_values("T")
    for T, status, reason in zip(failed["T"], failed["status"], failed["reason"], strict=True):
        if case.T == T or status in ENDING:
            return f"{status} at T = {T}: {reason}"
    return ""


def _reasons(fitting: pd.DataFrame) -> dict[str, str]:
    lines: list[dict[str, Any]] = fitting.to_dict("records")  # type: ignore[assignment]
    found: dict[str, list[str]] = {line["method"]: [] for line in lines}
    for column, words in (("ms", "the fastest"), ("bytes", "the least memory"), ("quality", "the best quality")):
        least = fitting[column].min()
        for line in lines:
            if line[column] == least:
                found[line["method"]].append(words)
    base = next((line["ms"] for line in lines if line["method"] == BASELINE), None)
    best = fitting["quality"].min()
    for line in lines:
        told = found[line["method"]]
        if base is not None and line["method"] != BASELINE:
            ratio = base / line["ms"]
            told.append(f"{ratio:.1f} times as fast as {BASELINE}" if ratio >= 1 else f"{1 / ratio:.1f} times slower")
        if line["quality"] > best:
            told.append(f"{line['quality'] - best:.3f} bits per byte more than the best")
    return {name: "; ".join(told) for name, told in found.items()}


def _plan(case: Case, unmeasured: Sequence[str], plan: Plan) -> Plan | None:
    if not unmeasured:
        return None
    values = {"methods": tuple(unmeasured), "lengths": (case.T,), "phases": (case.phase,), "tasks": (TASK,)}
    if case.phase == "decode" and case.memory is not None:
        values["phases"] = ("prefill", "decode")  # what a decode starts from is measured after a prefill
    return plan.with_values({**values, "measure": tuple(MEASURES)})
