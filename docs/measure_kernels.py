"""Times the kernels beside their peers on this machine's GPU: one JSON, and a table on the terminal.

python docs/measure_kernels.py --out build/kernels   writes build/kernels/kernels.json
python docs/measure_kernels.py --smoke --out DIR     tiny shapes, on the CPU where there is no GPU: tries the program

Needs torch, triton, pluggy, PyYAML, rich and this checkout on the path, installed or not (make gpu).
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from kernel_cases import CASES, SMOKE, WORKLOADS, Case, Workload
from rich.console import Console
from rich.table import Table

from longatlas.catalog import load_catalog
from longatlas.kernels import is_interpreting
from longatlas.measure.policies import gpu_cold, wall
from longatlas.measure.roofline import Peaks, machine_peaks

SECONDS, SAMPLES = 0.4, 200  # per impl and phase
PACKAGES = ("torch", "triton", "flash-linear-attention", "fla-core")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of kernels.json")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, to try the program itself")
    parser.add_argument("--seconds", type=float, default=420, help="no case is begun after so many seconds")
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not given.smoke:
        raise SystemExit("torch finds no GPU here; --smoke tries the program on the CPU, with tiny shapes")
    found = measured(SMOKE if given.smoke else CASES, device, given.seconds)
    given.out.mkdir(parents=True, exist_ok=True)
    target = given.out / "kernels.json"
    target.write_text(json.dumps(found, indent=1) + "\n")
    show(found)
    print(f"Stored in {target}")


def measured(cases: tuple[Case, ...], device: str, seconds: float) -> dict[str, Any]:
    """Everything that is stored: the machine, its peaks, and a row per case, phase and impl or peer."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    peaks = machine_peaks(device, str(dtype).removeprefix("torch."))
    end = time.monotonic() + seconds
    rows: list[dict[str, Any]] = []
    left_out = []
    for case in cases:
        if time.monotonic() > end:
            left_out.append(case.name)
            continue
        rows += case_rows(case, device, dtype, peaks)
        torch.cuda.empty_cache()
    return {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.processor() or "CPU",
        "driver": driver(),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := installed(name))},
        "dtype": str(dtype).removeprefix("torch."),
        "copy_bytes_per_s": peaks.bytes_per_s,
        "matmul_flops_per_s": peaks.flops_per_s,
        "left_out": left_out,
        "rows": rows,
    }


def case_rows(case: Case, device: str, dtype: torch.dtype, peaks: Peaks) -> list[dict[str, Any]]:
    """Medians beside the floor, and how many times longer each takes than impl "triton"."""
    workload = WORKLOADS[case.method](case, device, dtype)
    rows = []
    for phase in ("decode",) if case.decode else ("forward", "forward_backward"):
        floor = floor_seconds(workload, phase, peaks)
        some = [
            {"case": case.name, **asdict(case), "phase": phase, **row, "floor_s": floor}
            for row in candidate_rows(workload, phase, device)
        ]
        ours = next((row["median_s"] for row in some if row["name"] == "triton" and row["status"] == "ok"), None)
        for row in some:
            if row["status"] == "ok":
                row["floor_share"] = floor / row["median_s"]
                row["times_triton"] = row["median_s"] / ours if ours else None
        rows += some
    return rows


def candidate_rows(workload: Workload, phase: str, device: str) -> Iterator[dict[str, Any]]:
    method = load_catalog().method(workload.case.method)
    impls = [impl for impl in method.impls if impl != "reference"]
    candidates: list[tuple[str, str, Callable[[], Any]]] = [("impl", i, workload.forward(i)) for i in impls]
    candidates += [("peer", name, run) for name, run in workload.peers()]
    for kind, name, run in candidates:
        yield {
            "kind": kind,
            "name": name,
            **timed(with_backward(workload, run) if "backward" in phase else run, device),
        }


def with_backward(workload: Workload, run: Callable[[], Any]) -> Callable[[], Any]:
    wanted = [x for x in workload.inputs if x.requires_grad]
    gradient = torch.randn_like(run())

    def forward_backward() -> None:
        torch.autograd.grad(run(), wanted, gradient, allow_unused=True)

    return forward_backward


def timed(run: Callable[[], Any], device: str) -> dict[str, Any]:
    """Median, 20th and 80th percentile in seconds, and the bytes allocated at most; or why there are none."""
    try:
        run()
        samples = gpu_cold(run, SECONDS, SAMPLES) if device == "cuda" else wall(run, 0, 1)
        peak = peak_bytes(run) if device == "cuda" else None
    except Exception as error:  # a peer that fails must not cost the others their rows
        return {
            "status": "failed",
            "reason": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
        }
    times = torch.tensor(sorted(samples), dtype=torch.float64)
    low, middle, high = (float(times.quantile(q)) for q in (0.2, 0.5, 0.8))
    return {"status": "ok", "median_s": middle, "p20_s": low, "p80_s": high, "n": len(samples), "peak_bytes": peak}


def peak_bytes(run: Callable[[], Any]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def floor_seconds(workload: Workload, phase: str, peaks: Peaks) -> float:
    moved, flops = workload.moved_bytes(), workload.flops()
    if phase == "forward_backward":
        moved, flops = moved + workload.backward_bytes(), 3 * flops
    return max(moved / peaks.bytes_per_s, flops / peaks.flops_per_s)


def installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def driver() -> str:
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def show(found: dict[str, Any]) -> None:
    how = "Triton's interpreter" if is_interpreting() else found["device"]
    table = Table(title=f"{how}, {found['dtype']}; ms: median (p20 to p80)")
    for heading in ("case", "phase", "name", "ms", "of the floor", "times triton", "peak MiB"):
        table.add_column(heading)
    for row in found["rows"]:
        table.add_row(row["case"], row["phase"], row["name"], *cells(row))
    Console(width=180).print(table)
    if found["left_out"]:
        print("No time was left for: " + ", ".join(found["left_out"]))


def cells(row: dict[str, Any]) -> list[str]:
    if row["status"] != "ok":
        return [row["reason"], "", "", ""]
    middle, low, high = (1000 * row[key] for key in ("median_s", "p20_s", "p80_s"))
    times, peak = row["times_triton"], row["peak_bytes"]
    return [
        f"{middle:.3f} ({low:.3f} to {high:.3f})",
        f"{row['floor_share']:.0%}",
        f"{times:.2f}" if times else "",
        f"{peak / 2**20:.0f}" if peak is not None else "",
    ]


if __name__ == "__main__":
    main()
