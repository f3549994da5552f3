"""Writes the generated parts of README.md: the table of methods, the example plugin, the measured ratios.

python docs/readme.py          rewrites them
python docs/readme.py --check  fails when they are out of date
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from datetime import date
from pathlib import Path
from typing import Any

from longatlas.catalog import load_catalog

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
EXAMPLE = ROOT / "tests" / "example_plugin" / "dilated_window" / "__init__.py"
GPU = sorted((ROOT / "docs" / "results").glob("*/kernels.json"))
RATIOS = ROOT / "docs" / "results" / "cpu-2-cores" / "targets.json"


def methods() -> str:
    """A line per built-in method, in the taxonomy's order."""
    catalog = load_catalog()
    built_in = {m.name for p in catalog.plugins if p.distribution == "longatlas" for m in p.methods}
    lines = ["| method | family | fills | time | state | training |", "| --- | --- | --- | --- | --- | --- |"]
    for method in catalog.select():
        if method.name in built_in:
            slots = ", ".join(method.fills)
            lines.append(
                f"| `{method.name}` | {method.family} | {slots} | {method.cost.time} | {method.cost.state} "
                f"| {method.training} |"
            )
    return "\n".join(lines)


def plugin() -> str:
    """The example plugin's code, as it is installed and run by a test."""
    return f"```python\n{EXAMPLE.read_text().strip()}\n```"


def ratios() -> str:
    """The ratios of the stored benchmark run."""
    stored = json.loads(RATIOS.read_text())
    lines = ["| ratio | measured | to reach |", "| --- | --- | --- |"]
    for bench in stored["benchmarks"]:
        info = bench["extra_info"]
        lines.append(f"| {bench['name']} | {info['ratio']:.2f}x | {info['target']:g}x |")
    return "\n".join(lines)


def gpu() -> str:
    """A table per stored run of `make gpu`: the kernels beside their floor and their peers."""
    if not GPU:
        return "No run is stored yet: no GPU has been at hand."
    return "\n\n".join(gpu_table(json.loads(path.read_text())) for path in GPU)


def gpu_table(rows: list[dict[str, Any]]) -> str:
    """A line per method, shape and phase whose impl triton has a time; others are those of the same shape."""
    times = {_place(row): row for row in rows if row["metric"] == f"{row['phase']}_ms"}
    shares: dict[Any, float] = defaultdict(float)  # of the machine's peak that binds: how near the floor
    for row in rows:
        if row["metric"] in ("bandwidth_share", "compute_share"):
            shares[_place(row)] = max(shares[_place(row)], row["value"])
    lines = [
        f"{_machine(rows[0])}, {rows[0]['dtype']}:",
        "",
        "| method | shape | phase | ms | of the floor | how many times longer others take |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for (method, impl, shape, phase), row in times.items():
        if impl != "triton":
            continue
        others = [
            f"{other_impl if other == method else f'{other} {other_impl}'} {found['value'] / row['value']:.2f}"
            for (other, other_impl, *place), found in times.items()
            if place == [shape, phase] and found is not row
        ]
        share = shares[method, impl, shape, phase]
        lines.append(f"| `{method}` | {shape} | {phase} | {row['value']:.3f} | {share:.0%} | {', '.join(others)} |")
    return "\n".join(lines)


def _place(row: dict[str, Any]) -> tuple[str, str, str, str]:
    """Method, impl, shape and phase, such as ("infini_attention:segment_len=2048", "triton", "B1 T32768 H16 D128")."""
    case = row["case"]
    grouped = f" Hkv{case['kv_heads']}" if "kv_heads" in case else ""
    shape = f"B{case['batch']} T{row['T']} H{case['heads']}{grouped} D{case['head_size']}"
    return row["method"], row["impl"], shape, row["phase"]


def _machine(row: dict[str, Any]) -> str:
    """What measured, and when."""
    told = row["versions"]
    named = [f"{name} {told[name]}" for name in ("driver", "python", "torch", "triton") if told.get(name)]
    return ", ".join([told.get("gpu") or row["machine"], *named, f"{date.fromtimestamp(row['created']):%Y-%m-%d}"])


def filled(text: str) -> str:
    """README text with every generated part made anew."""
    for part in (methods, plugin, ratios, gpu):
        name = part.__name__
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"README.md lacks the marks of the generated part '{name}'")
        made = part()
        text = pattern.sub(lambda found, made=made: found[1] + made + "\n" + found[2], text)
    return text


def main() -> None:
    text = README.read_text()
    if "--check" in sys.argv:
        if filled(text) != text:
            raise SystemExit("README.md is out of date; run `python docs/readme.py`")
    else:
        README.write_text(filled(text))


if __name__ == "__main__":
    main()
