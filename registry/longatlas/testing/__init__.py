"""The conformance kit: what every method must hold, checked by one call.

`check_method("my_method")` is the only test a plugin needs; `longatlas verify my_method` is the same on the
command line. Reports load no torch.
"""

from typing import TYPE_CHECKING

from longatlas.lazy import lazy_exports
from longatlas.testing.report import CheckResult, ConformanceError, Report

if TYPE_CHECKING:
    from longatlas.testing.runner import check_method, verify_method

__all__ = ["CheckResult", "ConformanceError", "Report", "check_method", "verify_method"]

__getattr__ = lazy_exports(__name__, {"check_method": ".runner", "verify_method": ".runner"})
