"""What is found out apart from measurements, of a method or of the engine: asked of the executor, and kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from longatlas.combination import Combination, parse_spec
from longatlas.errors import LongAtlasError
from longatlas.footprint import SMALL, TABLE
from longatlas.harness.executor import Reply, Request
from longatlas.harness.running import executor_on
from longatlas.harness.slot_lock import StoppedError
from longatlas.identity import Code, counted, facts
from longatlas.store import Store
from longatlas.testing import CheckResult, Report
from longatlas.testing.report import FAILED

# Kinds by name, each with the seconds that it may take. `footprint` is of no method.
KINDS = {"influence": 60.0, "verify": 600.0, "footprint": 120.0}
WAIT_SECONDS = 30.0  # that a page waits for a device that is in use


def value_of(reply: Reply) -> Any:
    """What a request of one of these kinds has found.

    A method that ends the process or hangs has a report too, in which the check `survives` has failed.
    Raises LongAtlasError that says why nothing was found.
    """
    if reply.status == "ok":
        return reply.value
    name, spec = reply.request.name, reply.request.arguments.get("spec", "")
    if reply.status == "unsupported":
        raise LongAtlasError(reply.reason)
    text = reply.reason + (", and was ended" if reply.status == "timeout" else "")
    if name == "verify":
        return _lost(spec, text + "; `--timeout` gives it longer" * (reply.status == "timeout"), reply).as_dict()
    if name == "influence":
        remedy = f"; `longatlas verify {spec}` checks it"
        raise LongAtlasError(f"method '{spec}' cannot be differentiated: {text}{remedy}")
    raise LongAtlasError(f"the {name} cannot be measured: {text}")


def _lost(spec: str, text: str, reply: Reply) -> Report:
    """The report of a method that gave none: that it did not survive, and the checks before that."""
    detail = text if reply.status == "timeout" else f"it ended the process: {text}"
    return Report(spec, (CheckResult("survives", FAILED, detail), *(CheckResult(**check) for check in reply.told)))


def kept(store: Store, kind: str, combination: Combination | None = None) -> dict[str, Any] | None:
    """What `find` found for this source with these versions: {"found": ..., "seconds": ..., "at": ...}; else None."""
    text = store.fact(_key(kind, combination))
    record: dict[str, Any] | None = json.loads(text) if text else None
    return record


def find(store: Store, kind: str, combination: Combination | None = None) -> dict[str, Any]:
    """Find it out, within its time, and keep it.

    Raises LongAtlasError that says why nothing was found, or that the machine is measuring something.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    try:
        ((_, outcome),) = _find(store, kind, [combination], lambda: time.monotonic() > deadline)
    except StoppedError:
        raise LongAtlasError("a measurement has this machine to itself; ask again when it is done") from None
    if isinstance(outcome, LongAtlasError):
        raise outcome
    return outcome


def find_all(store: Store, kind: str, combinations: Iterable[Combination]) -> dict[str, str]:
    """Find what is not kept yet of several methods. Returns the specs that failed, with the reason."""
    missing = [combination for combination in combinations if kept(store, kind, combination) is None]
    outcomes = _find(store, kind, missing)
    return {spec: str(outcome) for spec, outcome in outcomes if isinstance(outcome, LongAtlasError)}


def _find(
    store: Store,
    kind: str,
    combinations: Sequence[Combination | None],
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[str, dict[str, Any] | LongAtlasError]]:
    """Specs, each with what was found or why nothing was."""
    if not combinations:
        return
    keys = {combination.spec if combination else "": _key(kind, combination) for combination in combinations}
    requests = [Request(kind, {"spec": spec} if spec else asdict(SMALL)) for spec in keys]
    with executor_on("cpu", store, should_stop=should_stop) as executor:
        for reply in executor.ask(requests, KINDS[kind], together=True):
            spec = reply.request.arguments.get("spec", "")
            try:
                value = value_of(reply)
            except LongAtlasError as error:
                yield spec, error
                continue
            found = [value] if spec else value
            record = {"found": found, "seconds": reply.seconds, "at": time.time() - reply.seconds}
            store.remember(keys[spec], json.dumps(record))
            yield spec, record


def _key(kind: str, combination: Combination | None) -> str:
    code, who = Code(), json.dumps(counted(facts(), "cpu"))
    if combination is None:
        sources = "-".join(code.of(parse_spec(row.method), kind) for row in TABLE if row.method)
        return f"{kind}:{sources}:{who}"
    values = json.dumps(combination.options, sort_keys=True)
    return f"{kind}:{combination.spec}:{values}:{code.of(combination, kind)}:{who}"
