"""Two sets of results side by side, and the gate that says whether the second is worse."""

from longatlas.compare.comparison import Comparison, compare
from longatlas.compare.rules import Rule, parse_rules
from longatlas.compare.sides import SHIPPED, Side, load_side

__all__ = ["SHIPPED", "Comparison", "Rule", "Side", "compare", "load_side", "parse_rules"]
