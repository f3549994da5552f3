"""What a conformance run found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

PASSED, FAILED, DECLARED, SKIPPED = "passed", "failed", "declared", "skipped"


@dataclass(frozen=True)
class CheckResult:
    """One check: `passed`, `failed`, `declared` (departs as its card says) or `skipped`, with the reason."""

    check: str
    status: str
    detail: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Report:
    """All checks of a method. `ok` is true when none failed."""

    method: str
    results: tuple[CheckResult, ...]

    @property
    def ok(self) -> bool:
        return not self.failures

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        return tuple(result for result in self.results if result.status == FAILED)

    def as_dict(self) -> dict[str, Any]:
        return {"method": self.method, "ok": self.ok, "checks": [asdict(r) for r in self.results]}

    @classmethod
    def from_dict(cls, report: Mapping[str, Any]) -> Report:
        return cls(str(report["method"]), tuple(CheckResult(**check) for check in report["checks"]))


class ConformanceError(AssertionError):
    """A method fails its conformance check; the text lists the failures."""

    def __init__(self, report: Report) -> None:
        lines = [f"  {result.check}: {result.detail}" for result in report.failures]
        super().__init__("\n".join([f"method '{report.method}' fails {len(lines)} check(s):", *lines]))
        self.report = report


class SkipCheck(Exception):
    """Raised by a check that does not apply to a method; the text is the reason."""
