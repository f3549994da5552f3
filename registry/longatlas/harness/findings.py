"""What is found out apart from measurements, of a method or of the engine; kept until its source changes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

from longatlas.combination import Combination, parse_spec
from longatlas.errors import LongAtlasError
from longatlas.footprint import TABLE
from longatlas.harness.cells import environment_digest
from longatlas.harness.sources import source_digest
from longatlas.store import Store

# kind -> the seconds that the command of that name may take. All print JSON; `footprint` is not of one method.
KINDS = {"influence": 60.0, "verify": 600.0, "footprint": 120.0}


def kept(store: Store, kind: str, combination: Combination | None = None) -> dict[str, Any] | None:
    """What `find` found for this source with these versions: {"found": ..., "seconds": ..., "at": ...}; else None."""
    text = store.fact(_key(kind, combination))
    found: dict[str, Any] | None = json.loads(text) if text else None
    return found


def find(store: Store, kind: str, combination: Combination | None = None) -> dict[str, Any]:
    """Run `longatlas KIND [SPEC] --json` in a process group of its own, within its time, and keep what it prints.

    Raises LongAtlasError with the command's own words where it fails, and when its time is over.
    """
    start, key = time.time(), _key(kind, combination)
    spec = [combination.spec] if combination else []
    found = _printed([kind, *spec, "--json"], KINDS[kind])
    record = {"found": found, "seconds": time.time() - start, "at": start}
    store.remember(key, json.dumps(record))
    return record


def _key(kind: str, combination: Combination | None) -> str:
    if combination is None:
        sources = "-".join(source_digest(parse_spec(row.method)) for row in TABLE if row.method)
        return f"{kind}:{sources}:{environment_digest()}"
    return f"{kind}:{combination.spec}:{source_digest(combination)}:{environment_digest()}"


def _printed(arguments: list[str], seconds: float) -> Any:
    command = [sys.executable, "-m", "longatlas", *arguments]
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
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    try:
        return json.loads(out)
    except ValueError:
        last = (err.strip() or f"exit code {process.returncode}").splitlines()[-1]
        raise LongAtlasError(f"`longatlas {' '.join(arguments)}` failed: {last.removeprefix('Error: ')}") from None
