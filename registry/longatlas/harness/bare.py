"""Measures the plans of a file on a bare machine: without a store, without worker processes, flat rows in a JSON file.

python -m longatlas.harness.bare docs/kernels.yaml --out build/kernels/kernels.json --seconds 170

Needs torch, triton, pluggy, PyYAML and rich, and longatlas on the path. Its rows are those of `longatlas run`, which is
the better way where everything is installed: here a method that crashes the process costs all that are left.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from longatlas.errors import LongAtlasError
from longatlas.harness.cells import Cell, expand
from longatlas.harness.plan import Plan, load_plans
from longatlas.measure.bench import Bench
from longatlas.measure.roofline import machine_peaks
from longatlas.measure.rows import Answer, Row, failure, failure_of
from longatlas.measures import MEASURES
from longatlas.words import OK, SKIPPED

ROUNDS = 4  # slices of a timing's budget; cells of a group take them in turns
SMALL = {"batch": 1, "heads": 2, "head_size": 16, "kv_heads": 0, "lengths": (40,), "budget": 0.01}


class RowsFile:
    """Flat rows as `longatlas results import` takes them; the file is whole after every cell.

    Raises LongAtlasError where it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.rows, self.keys = path, list[dict[str, Any]](), set[str]()
        self._write()

    def save(self, cell: Cell, rows: Sequence[Row], seconds: float) -> None:
        """Add a finished cell."""
        self.keys.add(cell.key)
        self.rows += cell.record(rows, seconds).flat()
        self._write()

    def _write(self) -> None:
        partial = self.path.with_name(f"{self.path.name}.partial")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(self.rows, indent=1) + "\n")
            partial.replace(self.path)
        except OSError as error:
            raise LongAtlasError(f"cannot write '{self.path}': {error.strerror}; choose another with --out") from None


def measure(plans: Sequence[Plan], file: RowsFile, seconds: float) -> None:
    """Measure the cells of all plans, those that differ by method and impl alone in turns.

    A group of cells is not begun after `seconds`: its cells are `skipped`, with that as their reason.
    """
    end = time.monotonic() + seconds
    for plan in plans:
        torch.set_num_threads(plan.threads or torch.get_num_threads())
        peaks = _peaks(plan.device, plan.dtype)
        for _, group in groupby(expand(plan), key=lambda cell: cell.group):
            cells = [cell for cell in group if cell.key not in file.keys]  # plans may have some in common
            for cell, rows, took in _measured(cells, peaks) if time.monotonic() < end else _skipped(cells, seconds):
                file.save(cell, rows, took)


def _skipped(cells: list[Cell], seconds: float) -> Iterator[tuple[Cell, list[Row], float]]:
    reason = f"{seconds:g} s were over before it was begun; --seconds allows more"
    return ((cell, [failure(SKIPPED, reason)], 0.0) for cell in cells)


@cache
def _peaks(device: str, dtype: str) -> dict[str, float]:
    return machine_peaks(device, dtype).to_dict()


def _measured(cells: list[Cell], peaks: dict[str, float]) -> Iterator[tuple[Cell, list[Row], float]]:
    """Each cell with its rows and the seconds that it took."""
    timed: list[tuple[Cell, Bench]] = []
    took = dict.fromkeys((cell.key for cell in cells), 0.0)
    for cell in cells:
        bench, start = Bench(), time.monotonic()
        rows = _rows_of(_first_request(bench, cell, peaks))
        took[cell.key] = time.monotonic() - start
        if rows:
            yield cell, rows, took[cell.key]
        else:
            timed.append((cell, bench))
    while timed:
        random.shuffle(timed)
        for cell, bench in list(timed):
            start = time.monotonic()
            rows = _rows_of(partial(bench.sample, seconds=cell.budget / ROUNDS))
            took[cell.key] += time.monotonic() - start
            if rows:
                timed.remove((cell, bench))
                yield cell, rows, took[cell.key]


def _first_request(bench: Bench, cell: Cell, peaks: dict[str, float]) -> Callable[[], Answer]:
    measure = MEASURES[cell.measure]
    asked: dict[str, Any] = {"cell": asdict(cell), "function": measure.function}
    if measure.timed:
        return partial(bench.prepare, **asked, peaks=peaks)
    return partial(bench.measure, **asked, cache="")


def _rows_of(ask: Callable[[], Answer]) -> list[Row]:
    """What is answered; an exception costs its cell."""
    try:
        rows: list[Row] = ask().get("rows", [])
    except Exception as error:
        return [failure_of(error)]
    return rows


def smoke(plans: Sequence[Plan]) -> list[Plan]:
    """The same methods, impls, phases and measures, once each, with tiny shapes; on the CPU where there is no GPU."""
    kinds = {(tuple(c.name for c in plan.combinations), plan.impl, plan.phases, plan.measure): plan for plan in plans}
    return [_tiny(plan) for plan in kinds.values()]


def _tiny(plan: Plan) -> Plan:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    on_it = {"device": device, "dtype": plan.dtype if device == "cuda" else "float32", "policy": "auto", "threads": 1}
    methods = tuple(combination.with_lengths(24).spec for combination in plan.combinations)
    return plan.with_values({**SMALL, **on_it, "methods": methods})


def show(rows: Sequence[Row]) -> None:
    """Times and what was not measured, on the terminal."""
    console, times = (
        Console(width=180),
        Table("method", "measure", "phase", "case", "T", "impl", "ms: median (95%)", "of the floor"),
    )
    shares: dict[str, float] = {}
    for row in rows:
        if row["metric"] in ("bandwidth_share", "compute_share"):
            shares[row["cell"]] = max(row["value"], shares.get(row["cell"], 0.0))
    for row in rows:
        case = " ".join(f"{name}={size}" for name, size in row["case"].items())
        told = (row["method"], row["measure"], row["phase"], case, str(row["T"]), row["impl"])
        if row["metric"] == f"{row['phase']}_ms":
            interval = f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
            times.add_row(*told, interval, f"{shares.get(row['cell'], 0.0):.0%}")
        elif row["status"] != OK:
            times.add_row(*told, f"{row['status']}: {row['reason']}", "")
    console.print(times)


def main() -> None:
    """The command. Exits with 2 where the plans or the device are not right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plans", type=Path, help="a YAML file: a plan, or a list of them under `plans`")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file of rows")
    parser.add_argument("--seconds", type=float, default=420, help="nothing is begun after so many seconds")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, on the CPU where there is no GPU")
    given = parser.parse_args()
    try:
        plans = load_plans(given.plans)
        plans = smoke(plans) if given.smoke else plans
        if any(plan.device == "cuda" for plan in plans) and not torch.cuda.is_available():
            raise LongAtlasError("torch finds no GPU here; --smoke tries the program on the CPU, with tiny shapes")
        file = RowsFile(given.out)
        measure(plans, file, given.seconds)
    except LongAtlasError as error:
        parser.exit(2, f"{error}\n")
    show(file.rows)
    print(f"Rows in {given.out}; `longatlas results import` takes them into a store")


if __name__ == "__main__":
    main()
