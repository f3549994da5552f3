"""The gate: which lines of a comparison are worse than the rules allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from longatlas.compare.comparison import MISSING, WORSE, Comparison, Line
from longatlas.compare.rules import Rule, check_used


@dataclass(frozen=True)
class Verdict:
    """What fails, each line with the reason; empty when the candidate passes."""

    failures: tuple[tuple[Line, str], ...]

    @property
    def passed(self) -> bool:
        return not self.failures


def judge(comparison: Comparison, rules: Sequence[Rule], *, allow_missing: bool = False) -> Verdict:
    """Apply the rules. A cell that was ok and is not any more always fails, and a missing one unless allowed.

    Raises LongAtlasError for a rule that can judge nothing.
    """
    check_used(rules, comparison.units)
    failures: list[tuple[Line, str]] = []
    for line in comparison.lines:
        if line.verdict == MISSING:
            if not allow_missing:
                failures.append((line, "missing"))
        elif not line.metric and line.verdict == WORSE:
            failures.append((line, f"{line.baseline_status} -> {line.candidate_status}"))
        else:
            failures += [(line, rule.text) for rule in rules if _fires(rule, line)]
    return Verdict(tuple(failures))


def _fires(rule: Rule, line: Line) -> bool:
    return rule.matches(line.metric) and not rule.objection(line.metric, line.unit) and rule.fires(line)
