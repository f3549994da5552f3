"""Writes the shipped baseline from a store: python docs/make_baseline.py STORE

The newest rows, without the raw samples.
"""

from __future__ import annotations

import sys
from pathlib import Path

from longatlas.compare.sides import SHIPPED_FILE
from longatlas.store import open_to_read
from longatlas.store.transfer import export_rows

PLACE = Path(__file__).parents[1] / "registry" / "longatlas" / "baselines" / SHIPPED_FILE

if __name__ == "__main__":
    rows = open_to_read(sys.argv[1]).rows(latest=True)
    PLACE.parent.mkdir(exist_ok=True)
    export_rows(rows, PLACE)
    print(f"{len(rows)} rows of {rows['cell'].nunique()} cells, {PLACE.stat().st_size / 1024:.0f} KiB")
