"""Runs the checks on a method."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from longatlas.cards import Method
from longatlas.catalog import obstacles
from longatlas.combination import Combination, as_combination
from longatlas.testing.case import Case, make_case
from longatlas.testing.checks import CHECKS, SEGMENTATION, Check
from longatlas.testing.report import (
    DECLARED,
    FAILED,
    PASSED,
    SKIPPED,
    CheckResult,
    ConformanceError,
    Report,
    SkipCheck,
)


def check_method(method: Combination | Method | str, *, device: str = "cpu") -> Report:
    """Run every check on a method (a name, a spec with options, a Method) and return the report.

    Raises ConformanceError (an AssertionError) that lists what fails; LongAtlasError for an unknown name.
    """
    report = verify_method(method, device=device)
    if not report.ok:
        raise ConformanceError(report)
    return report


def verify_method(
    method: Combination | Method | str,
    *,
    device: str = "cpu",
    progress: Callable[[CheckResult], None] | None = None,
) -> Report:
    """Like check_method, but failures are in the report instead of raised. `progress` is told each result."""
    combination = as_combination(method)
    results: list[CheckResult] = []
    hindrance = next((o for p in combination.parts for o in obstacles(p.method)), None)
    if hindrance:
        results.append(CheckResult("runs_here", FAILED, f"{hindrance[0]}: {hindrance[1]}"))
        return Report(combination.spec, tuple(results))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the shapes are tiny: more threads only wait for one another
    try:
        results += _run_checks(combination, device, progress)
    finally:
        torch.set_num_threads(threads)
    return Report(combination.spec, tuple(results))


def _run_checks(
    combination: Combination, device: str, progress: Callable[[CheckResult], None] | None
) -> list[CheckResult]:
    results: list[CheckResult] = []
    case: Case | None = None
    for check in CHECKS:
        start = time.perf_counter()
        try:
            case = case or make_case(combination, device)
            status, detail = PASSED, check(case) or ""
        except SkipCheck as reason:
            status, detail = SKIPPED, str(reason)
        except AssertionError as error:
            status, detail = _judge(check, combination, str(error) or "an assertion in the method failed")
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a method that calls sys.exit() has failed, and the next check is run
            status, detail = FAILED, f"{type(error).__name__}: {error}"
        results.append(CheckResult(check.__name__, status, detail, time.perf_counter() - start))
        if progress:
            progress(results[-1])
    return results


def _judge(check: Check, combination: Combination, detail: str) -> tuple[str, str]:
    if check not in SEGMENTATION:
        return FAILED, detail
    if "segments" in combination.departs:
        return DECLARED, "as its card declares: " + (combination.deviations or 'departs=("segments",)')
    if "segment" in combination.deviations.lower():
        detail += '; a card declares that by departs=("segments",), no longer by the word in its deviations'
    return FAILED, detail
