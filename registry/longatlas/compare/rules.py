"""The gate's rules: `median:5%,peak_bytes:2%,accuracy:-1pt`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch

from longatlas.compare.comparison import SAME, Line
from longatlas.compare.metrics import LESS, MEDIANS, MORE
from longatlas.errors import LongAtlasError

_UNITS = {"": 1.0, "%": 0.01, "pt": 0.01, "ms": 1.0, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
_RULE = re.compile(r"(?P<metric>[\w*?\[\]]+):(?P<sign>[+-]?)(?P<number>\d+(?:\.\d+)?)(?P<unit>%|pt|ms|KiB|MiB|GiB|)")


@dataclass(frozen=True)
class Rule:
    """How much worse a metric may become.

    metric     a metric, a pattern such as `*_bytes`, or `median` for the medians of the timed phases
    threshold  what is allowed: a share of the baseline with `%`, else in the metric's unit (a `pt` is a hundredth)
    sign       -1 where a fall is worse, +1 where a rise is, 0 to go by the metric
    """

    text: str
    metric: str
    threshold: float
    relative: bool
    sign: int

    def matches(self, metric: str) -> bool:
        """Whether the rule is about a metric."""
        return metric in MEDIANS if self.metric == "median" else fnmatch(metric, self.metric)

    def fires(self, line: Line) -> bool:
        """Whether a line is worse than the rule allows; a difference inside the intervals is none."""
        if line.verdict == SAME or line.baseline is None or line.candidate is None:
            return False
        worse = self._better(line) * (line.baseline - line.candidate)
        allowed = self.threshold * abs(line.baseline) if self.relative else self.threshold
        return worse > allowed

    def _better(self, line: Line) -> int:
        """Which way is better for this line: MORE or LESS."""
        known = {1: LESS, -1: MORE, 0: line.direction}[self.sign]
        if known == 0:
            raise LongAtlasError(
                f"rule '{self.text}': it is not known which way '{line.metric}' is better; say which change is worse "
                f"by a sign, such as {self.metric}:-1 for a fall"
            )
        return line.direction or known


def parse_rules(text: str) -> list[Rule]:
    """Read rules, separated by commas. Raises LongAtlasError that names the one that is wrong."""
    rules = [_parse(part.strip()) for part in text.split(",") if part.strip()]
    if not rules:
        raise LongAtlasError("--fail names no rule; give some, such as median:5%,peak_bytes:2%,accuracy:-1pt")
    return rules


def _parse(text: str) -> Rule:
    found = _RULE.fullmatch(text)
    if found is None:
        raise LongAtlasError(
            f"rule '{text}' cannot be read; expected metric:threshold, such as median:5%, peak_bytes:2%, "
            "accuracy:-1pt or prefill_ms:0.5ms"
        )
    unit = found["unit"]
    threshold = float(found["number"]) * _UNITS[unit]
    sign = {"+": 1, "-": -1, "": 0}[found["sign"]]
    return Rule(text, found["metric"], threshold, unit == "%", sign)


def check_used(rules: Iterable[Rule], metrics: Iterable[str]) -> None:
    """Raise LongAtlasError for a rule about nothing: a gate that checks nothing must not pass."""
    known = sorted({metric for metric in metrics if metric})
    for rule in rules:
        if not any(rule.matches(metric) for metric in known):
            raise LongAtlasError(
                f"rule '{rule.text}' matches no metric of the comparison; there are: {', '.join(known) or 'none'}"
            )
