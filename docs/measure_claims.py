"""Measures what docs/claims.yaml speaks of on one thread, and stores the rows in docs/results/cpu-2-cores/quality.json.

OMP_NUM_THREADS=1 python docs/measure_claims.py [STORE]

What a store (a path, by default a temporary one) already has is not measured again.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import yaml

from longatlas.harness.plan import Plan
from longatlas.harness.progress import Progress
from longatlas.harness.running import run

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "cpu-2-cores" / "quality.json"


def main() -> None:
    claims = yaml.safe_load((HERE / "claims.yaml").read_text())["claims"]
    with tempfile.TemporaryDirectory() as folder:
        store = sys.argv[1] if len(sys.argv) > 1 else f"{folder}/claims.sqlite"
        start = time.monotonic()
        frames = [run(plan, store=store, progress=tell) for plan in plans(claims)]
        print(f"{time.monotonic() - start:.0f} s")
    rows = pd.concat(frames)
    lines = [json.dumps(row) for row in json.loads(rows.to_json(orient="records", double_precision=15))]
    RESULTS.write_text("[\n" + ",\n".join(lines) + "\n]\n")


def plans(claims: list[dict]) -> list[Plan]:
    """One plan for each task, with every method that a claim about it names."""
    methods: dict[str, list[str]] = {}
    for claim in claims:
        for check in claim["checks"]:
            named = [check["method"], check.get("than", {}).get("method", check["method"])]
            methods.setdefault(claim["task"], []).extend(named)
    return [
        Plan(methods=tuple(specs), measure=("quality",), tasks=(task,), preset="quick", threads=1, timeout=1800)
        for task, specs in methods.items()
    ]


def tell(step: Progress) -> None:
    if step.status and not step.kept:
        print(f"[{step.done}/{step.total}] {step.cell.label}: {step.status} {step.reason}", flush=True)


if __name__ == "__main__":
    main()
