"""Learning rates times seeds: every pair gets the same budget, the best rate is reported with its spread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from longatlas.errors import UnsupportedError
from longatlas.losses import METRIC
from longatlas.tasks.training import DivergedError, Record

Row = dict[str, Any]


class Trial(NamedTuple):
    """One training: how it went, and what its decoder scored; the first row is the one that rates are chosen by."""

    record: Record
    rows: list[Row]


def sweep(
    lrs: Sequence[float], seeds: Sequence[int], trial: Callable[[float, int], Trial], *, lower_is_better: bool
) -> list[Row]:
    """Try every learning rate with every seed and report the best rate.

    The best rate is the one with the fewest diverged seeds, and among those with the best mean of the first row.
    Values are means over its seeds. With several seeds low and high are the least and the greatest of them, n is
    their number and samples are their values; with one seed a row keeps the interval of its own evaluation.

    After the task's rows stand best_lr, steps (done, at most the budget), steps_to_95 (only if all seeds got there),
    train_seconds (mean of a training) and diverged (trainings that diverged, of all rates). Where there was a tuning,
    steps and train_seconds are its host's, and tune_steps and tune_seconds its own. calibrate_seconds has as its reason
    the specs with fitted options that were measured. loss_NAME is a loss that the model added to the objective's, the
    mean over the last steps of training. Raises UnsupportedError when every training diverged.
    """
    tried: dict[float, list[Trial]] = {lr: [] for lr in lrs}
    for lr in lrs:
        for seed in seeds:
            try:
                tried[lr].append(trial(lr, seed))
            except DivergedError:
                continue
    diverged = len(lrs) * len(seeds) - sum(map(len, tried.values()))
    if not any(tried.values()):
        rates = ", ".join(f"{lr:g}" for lr in lrs)
        raise UnsupportedError(f"training diverged with every seed at every learning rate ({rates})")
    sign = -1 if lower_is_better else 1
    best = max(lrs, key=lambda lr: (len(tried[lr]), sign * _headline(tried[lr])))
    rows = [_over_seeds(list(same)) for same in zip(*(t.rows for t in tried[best]), strict=True)]
    return rows + _protocol(best, [t.record for t in tried[best]], diverged, rows[0]["T"] if rows else 0)


def _headline(trials: list[Trial]) -> float:
    return fmean(t.rows[0]["value"] for t in trials) if trials else 0.0


def _over_seeds(rows: list[Row]) -> Row:
    """One row of the same metric from each seed, as one."""
    if len(rows) == 1:
        return rows[0]
    values = [row["value"] for row in rows]
    return rows[0] | {
        "value": fmean(values),
        "low": min(values),
        "high": max(values),
        "n": len(values),
        "samples": values,
    }


def _protocol(lr: float, records: list[Record], diverged: int, length: int) -> list[Row]:
    """How the reported trainings went."""
    told = [
        _row("best_lr", "", [lr], length),
        _row("steps", "steps", [record.steps for record in records], length),
        _row("train_seconds", "s", [record.seconds for record in records], length),
        _row("diverged", "trainings", [diverged], length),
    ]
    reached = [record.steps_to_95 for record in records if record.steps_to_95 is not None]
    if len(reached) == len(records):
        told.append(_row("steps_to_95", "steps", reached, length))
    if any(record.tune_steps for record in records):
        told.append(_row("tune_steps", "steps", [record.tune_steps for record in records], length))
        told.append(_row("tune_seconds", "s", [record.tune_seconds for record in records], length))
    if any(record.fitted for record in records):
        specs = dict.fromkeys(spec for record in records for spec in record.fitted)
        seconds = [sum(record.fitted.values()) for record in records]
        told.append(_row("calibrate_seconds", "s", seconds, length) | {"reason": "; ".join(specs)})
    for name in dict.fromkeys(name for record in records for name in record.losses):
        added = [record.losses[name] for record in records if name in record.losses]
        told.append(_row(f"{METRIC}{name}", "nats", added, length))
    return told


def _row(metric: str, unit: str, values: Sequence[float], length: int) -> Row:
    return {
        "metric": metric,
        "unit": unit,
        "T": length,
        "value": fmean(values),
        "low": min(values),
        "high": max(values),
        "n": len(values),
    }
