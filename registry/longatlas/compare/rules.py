"""The gate's rules: `median:5%,peak_bytes:2%,accuracy:-1pt`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch

from longatlas.compare.comparison import RATIO, SAME, Line
from longatlas.errors import LongAtlasError
from longatlas.measures import LESS, MORE, SPEED, direction

# Unit of a threshold -> its size in the metric's own unit, and the units of metrics that it can be said of.
_UNITS: dict[str, tuple[float, tuple[str, ...]]] = {
    "": (1.0, ()),
    "%": (0.01, ()),
    "pt": (0.01, ("share", "ratio")),
    "ms": (1.0, ("ms",)),
    "KiB": (2.0**10, ("bytes",)),
    "MiB": (2.0**20, ("bytes",)),
    "GiB": (2.0**30, ("bytes",)),
}
_RULE = re.compile(r"(?P<metric>[\w*?\[\]]+):(?P<sign>[+-]?)(?P<number>\d+(?:\.\d+)?)(?P<unit>%|pt|ms|KiB|MiB|GiB|)")


@dataclass(frozen=True)
class Rule:
    """How much worse a metric may become.

    metric     a metric, a pattern such as `*_bytes`, or `median` for the medians of the timed phases
    threshold  what is allowed: a share of the baseline with `%`, else in the metric's unit (a `pt` is a hundredth)
    unit       as it was written
    sign       -1 where a fall is worse, +1 where a rise is, 0 to go by the metric
    """

    text: str
    metric: str
    threshold: float
    unit: str
    sign: int

    def matches(self, metric: str) -> bool:
        """Whether the rule is about a metric."""
        if self.metric == "median":
            return any(metric == view.metric for view in SPEED.views)
        return fnmatch(metric, self.metric)

    def objection(self, metric: str, unit: str) -> str:
        """Why the rule cannot judge a metric that is measured in `unit`; "" where it can."""
        units = _UNITS[self.unit][1]
        if unit.startswith(RATIO) and self.unit != "%":
            return f"between machines only ratios are compared; give a share of the baseline, such as {self.metric}:5%"
        if units and unit not in units:
            return f"'{metric}' is measured in {unit or 'no unit'}, not in {self.unit}; {self.metric}:5% works for any"
        if not (direction(metric) or self.sign):
            return (
                f"it is not known which way '{metric}' is better; say which change is worse by a sign, "
                f"such as {self.metric}:-{self.threshold:g} for a fall"
            )
        if self.sign * direction(metric) > 0:
            worse = "a fall" if direction(metric) == MORE else "a rise"
            return f"{worse} of '{metric}' is worse; leave the sign out"
        return ""

    def fires(self, line: Line) -> bool:
        """Whether a line is worse than the rule allows; a difference inside the intervals is none."""
        if line.verdict == SAME or line.baseline is None or line.candidate is None:
            return False
        better = line.direction or (LESS if self.sign > 0 else MORE)
        worse = better * (line.baseline - line.candidate)
        return worse > (self.threshold * abs(line.baseline) if self.unit == "%" else self.threshold)


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
    threshold = float(found["number"]) * _UNITS[found["unit"]][0]
    sign = {"+": 1, "-": -1, "": 0}[found["sign"]]
    return Rule(text, found["metric"], threshold, found["unit"], sign)


def check_used(rules: Iterable[Rule], units: Mapping[str, str]) -> None:
    """Raise LongAtlasError for a rule that can judge nothing: a gate that checks nothing must not pass.

    units  metric -> unit of all that is compared
    """
    for rule in rules:
        objections = [rule.objection(metric, units[metric]) for metric in sorted(units) if rule.matches(metric)]
        if not objections:
            there = ", ".join(sorted(units)) or "none"
            raise LongAtlasError(f"rule '{rule.text}' matches no metric of the comparison; there are: {there}")
        if all(objections):
            raise LongAtlasError(f"rule '{rule.text}': {objections[0]}")
