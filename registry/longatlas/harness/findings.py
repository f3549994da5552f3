"""What is found out apart from measurements, of a method or of the engine; kept until its source changes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from longatlas.combination import Combination, parse_spec
from longatlas.errors import LongAtlasError
from longatlas.footprint import TABLE
from longatlas.harness.workers.keeper import kept as with_keeper
from longatlas.identity import Code, counted, facts
from longatlas.processes import END_SECONDS
from longatlas.store import Store

# kind -> the seconds that the command of that name may take for a method. All print a list as JSON; `footprint` is of
# no method. `verify` has a limit of its own, which is shorter: its report tells then what hung.
KINDS = {"influence": 60.0, "verify": 660.0, "footprint": 120.0}


def kept(store: Store, kind: str, combination: Combination | None = None) -> dict[str, Any] | None:
    """What `find` found for this source with these versions: {"found": ..., "seconds": ..., "at": ...}; else None."""
    text = store.fact(_key(kind, combination))
    found: dict[str, Any] | None = json.loads(text) if text else None
    return found


def find(store: Store, kind: str, combination: Combination | None = None) -> dict[str, Any]:
    """Run `longatlas KIND [SPEC] --json` apart, within its time, and keep the list it prints.

    What it starts ends with it, and it ends with this process, however that ends (Linux).

    Raises LongAtlasError with the command's own words where it fails, and when its time is over.
    """
    (record,) = _find(store, kind, [combination])
    return record


def find_all(store: Store, kind: str, combinations: Iterable[Combination]) -> dict[str, str]:
    """Find what is not kept yet of several methods, by one command where none of them fails.

    Returns the specs that failed, with the reason.
    """
    missing = [combination for combination in combinations if kept(store, kind, combination) is None]
    failed: dict[str, str] = {}
    try:
        _find(store, kind, missing)
    except LongAtlasError:
        for combination in missing:
            try:
                find(store, kind, combination)
            except LongAtlasError as error:
                failed[combination.spec] = str(error)
    return failed


def _find(store: Store, kind: str, combinations: Sequence[Combination | None]) -> list[dict[str, Any]]:
    """One command for all: its list has an item for each method, or is whole where it is of none."""
    if not combinations:
        return []
    start, keys = time.time(), [_key(kind, combination) for combination in combinations]
    specs = [combination.spec for combination in combinations if combination]
    found = _printed([kind, *specs, "--json"], KINDS[kind] * len(keys))
    parts = [[item] for item in found] if specs else [found]
    seconds = (time.time() - start) / len(keys)
    records = [{"found": part, "seconds": seconds, "at": start} for part in parts]
    for key, record in zip(keys, records, strict=True):
        store.remember(key, json.dumps(record))
    return records


def _key(kind: str, combination: Combination | None) -> str:
    code, who = Code(), json.dumps(counted(facts(), "cpu"))
    if combination is None:
        sources = "-".join(code.of(parse_spec(row.method), kind) for row in TABLE if row.method)
        return f"{kind}:{sources}:{who}"
    values = json.dumps(combination.options, sort_keys=True)
    return f"{kind}:{combination.spec}:{values}:{code.of(combination, kind)}:{who}"


def _printed(arguments: list[str], seconds: float) -> Any:
    command = with_keeper([sys.executable, "-m", "longatlas", *arguments])
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise LongAtlasError(
            f"`longatlas {' '.join(arguments)}` took longer than {seconds:.0f} s and was ended; run it in a terminal "
            "to see where it stands"
        ) from None
    finally:
        _end(process)
    try:
        return json.loads(out)
    except ValueError:
        last = (err.strip() or f"exit code {process.returncode}").splitlines()[-1]
        raise LongAtlasError(f"`longatlas {' '.join(arguments)}` failed: {last.removeprefix('Error: ')}") from None


def _end(process: subprocess.Popen[str]) -> None:
    """Its keeper ends all that it started; where it does not, its group is killed."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=2 * END_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
