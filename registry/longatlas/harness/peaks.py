"""What the machine can reach, measured once per device, dtype and number of threads and remembered in the store."""

from __future__ import annotations

import json

from longatlas.harness.cells import Cell
from longatlas.harness.executor import Executor, Request
from longatlas.identity import Code
from longatlas.store import Store

SECONDS = 120.0


def machine_peaks(executor: Executor, store: Store, cell: Cell) -> dict[str, float] | None:
    """The peaks for cells like this one, None where they cannot be measured; nothing else may run on the device."""
    parts = (*cell.who.values(), cell.device, cell.dtype, str(cell.threads), Code().of_measure("peaks"))
    key = " | ".join(("peaks", *parts))
    known = store.fact(key)
    if known is not None:
        peaks: dict[str, float] = json.loads(known)
        return peaks
    asked = Request("peaks", {"device": cell.device, "dtype": cell.dtype, "threads": cell.threads})
    (reply,) = executor.ask([asked], SECONDS)
    measured: dict[str, float] | None = reply.value
    if measured is not None:
        store.remember(key, json.dumps(measured))
    return measured
