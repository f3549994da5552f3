"""Where methods' code runs: the protocol of executors, what they are asked, and what they give back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from longatlas.harness.cells import Cell

Row = dict[str, Any]


@dataclass(frozen=True)
class Finished:
    """A cell with its rows. `seconds` it took, of which `work` in the measured code itself.

    who  the worker's own account of its machine and versions; None where it gave no answer
    """

    cell: Cell
    rows: list[Row]
    seconds: float
    work: float
    who: dict[str, str] | None = None

    @property
    def status(self) -> str:
        return str(self.rows[0].get("status", "ok"))

    @property
    def reason(self) -> str:
        return str(self.rows[0].get("reason", ""))


@dataclass(frozen=True)
class Request:
    """The call of a function of longatlas.measure.requests, by its name; the arguments are values of JSON."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """What came of a request.

    value   what the function gave; None where it failed
    status  ok, unsupported, oom, timeout or crash, with the reason
    told    what it told before it ended
    """

    request: Request
    value: Any
    status: str
    reason: str
    told: tuple[Any, ...]
    seconds: float


class Executor(Protocol):
    """Runs methods' code apart from the process that asks, which never touches a device.

    This is where a cluster comes in: an object with these two methods runs any plan and answers every request.
    Whatever a method does there costs its own cell or reply alone, and nothing that it starts outlives the executor.
    """

    def measure_group(
        self,
        cells: Sequence[Cell],
        timeout: float,
        should_stop: Callable[[], bool] = lambda: False,
        begun: Callable[[Cell], None] = lambda cell: None,
        peaks: Mapping[str, float] | None = None,
    ) -> Iterator[Finished]:
        """Measure cells of different methods on one device, each given as soon as it is finished.

        Speed cells are timed in turns: a slice of the budget each, in an order drawn anew for each round, so that a
        machine that drifts hurts all alike. Other cells come one after the other.

        timeout  seconds of its own that a cell may take
        begun    told of each cell before its first request
        peaks    longatlas.measure.roofline.Peaks as a dict: where they are given, shares of them are told

        Raises StoppedError when `should_stop` says so; cells that are not finished are lost then.
        """

    def ask(
        self,
        requests: Sequence[Request],
        timeout: float,
        *,
        together: bool = False,
        should_stop: Callable[[], bool] = lambda: False,
        told: Callable[[Request, Any], None] = lambda request, value: None,
    ) -> Iterator[Reply]:
        """Answer requests, each from a process of its own, and give each reply as soon as it is there.

        timeout   seconds that a request may take
        together  they take no times, so several may be answered at once
        told      hears what a request tells on its way

        Raises StoppedError when `should_stop` says so.
        """
