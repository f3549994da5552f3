"""What the machine can reach, measured once per device, dtype and number of threads and remembered in the store."""

from __future__ import annotations

import json

from longatlas.harness.cells import Cell
from longatlas.harness.executor import Executor
from longatlas.identity import Code
from longatlas.store import Store


def set_peaks(executor: Executor, store: Store, cell: Cell) -> None:
    """Let the executor tell shares of the peaks for cells like this one; nothing else may run on the device."""
    parts = (*cell.who.values(), cell.device, cell.dtype, str(cell.threads), Code().of_measure("peaks"))
    key = " | ".join(("peaks", *parts))
    known = store.fact(key)
    if known is not None:
        executor.peaks = json.loads(known)
        return
    executor.peaks = executor.measure_peaks(cell.device, cell.dtype, cell.threads)
    if executor.peaks is not None:
        store.remember(key, json.dumps(executor.peaks))
