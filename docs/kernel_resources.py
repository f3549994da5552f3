"""Writes the compiler's table of docs/kernels.md: what each kernel takes on an H100, compiled without one.

python docs/kernel_resources.py          rewrites the table (half a minute)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import torch
import triton
from kernel_cases import Case, Workload, lightning
from measure_kernels import WORKLOADS

from longatlas.kernels import Launch, recorded_launches
from longatlas.testing.compiled import compile_launch

PAGE = Path(__file__).parent / "kernels.md"
CASES = (
    lightning(1, 4096, 132, 128),
    lightning(1, 4096, 2, 128),
    Case("lightning_attention2", 64, 1, 32, 128, decode=True),
    Case("transformer_xl", 1, 512, 2, 128, M=512),
    Case("transformer_xl", 1, 1, 2, 128, M=511, decode=True),
    Case("infini_attention", 1, 1024, 2, 128, N=256),
)


def started(workload: Workload) -> list[Launch]:
    with recorded_launches(90) as launches:
        out = workload.forward("triton")()
        if not workload.case.decode:
            torch.autograd.grad(out.float().sum(), [x for x in workload.inputs if x.requires_grad], allow_unused=True)
    return launches


def lines() -> Iterator[str]:
    yield "| method | kernel | warps | registers per thread | bytes spilled | shared memory, KiB | wgmma | mma |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for case in CASES:
        seen = set()
        for launch in started(WORKLOADS[case.method](case, "cpu", torch.bfloat16)):
            made = compile_launch(launch, 90)
            numbers = (
                launch.warps,
                made.registers,
                made.spilled,
                round(made.shared / 1024),
                made.matmuls["wgmma"],
                made.matmuls["mma"],
            )
            if (launch.name, numbers) in seen:
                continue
            seen.add((launch.name, numbers))
            yield f"| {case.method} | `{launch.name}` | " + " | ".join(map(str, numbers)) + " |"


def main() -> None:
    table = "\n".join(lines())
    head = f"sm_90, bf16, D = E = 128, triton {triton.__version__}:"
    text = PAGE.read_text()
    made = re.sub(
        r"(<!-- resources -->\n).*?(<!-- end of resources -->)",
        lambda found: f"{found[1]}{head}\n\n{table}\n{found[2]}",
        text,
        flags=re.DOTALL,
    )
    PAGE.write_text(made)


if __name__ == "__main__":
    main()
