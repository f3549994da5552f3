"""What the compiler makes of Infini-attention's kernels: all tiles fit into registers and memory, on tensor cores."""

from __future__ import annotations

import pytest
import torch

from longatlas.kernels import Launch, recorded_launches
from longatlas.testing.compiled import compile_launch
from longatlas_plugins.long_term_memory.infini_attention import infini_attention

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
LINEAR = {
    "segment_sums_kernel",
    "running_sum_kernel",
    "local_kernel",
    "read_backward_kernel",
    "query_gradient_kernel",
    "key_gradient_kernel",
    "write_backward_kernel",
}


def started(dtype: torch.dtype, size: int, capability: int, update: str) -> list[Launch]:
    """Forward and backward of two segments and a part of a third, then a token."""
    q, k, v = (torch.zeros(1, 600, heads, size, dtype=dtype, requires_grad=True) for heads in (4, 2, 2))
    gate = torch.zeros(4, requires_grad=True)
    options = {"segment_len": 256, "update": update, "output_final_state": True, "impl": "triton"}
    with recorded_launches(capability) as launches:
        o, state = infini_attention(q, k, v, gate, **options)
        torch.autograd.grad(o.float().sum() + state.memory.sum(), [q, k, v, gate])
        with torch.no_grad():
            token = (x[:, :1].contiguous() for x in (q, k, v))
            infini_attention(*token, gate, initial_state=state, **options)
    return launches


def different(launches: list[Launch]) -> list[Launch]:
    """One of those that compile to the same."""
    found = {}
    for launch in launches:
        given = {
            name: value if not isinstance(value, torch.Tensor) else value.dtype
            for name, value in launch.arguments.items()
            if name.isupper() or value is None or isinstance(value, torch.Tensor)
        }
        found[launch.name, str(given), launch.warps, launch.stages, launch.registers] = launch
    return list(found.values())


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("size", [16, 48, 64, 96, 128, 192, 256])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_every_kernel(dtype: torch.dtype, size: int, capability: int) -> None:
    launches = started(dtype, size, capability, "linear")
    assert {launch.name for launch in launches} == LINEAR
    if dtype != torch.float32 or size <= 128:
        delta = started(dtype, size, capability, "delta")
        assert {launch.name for launch in delta} == LINEAR | {"delta_kernel", "correction_kernel"}
        launches += delta
    for launch in different(launches):
        compiled = compile_launch(launch, capability)
        compiled.check()
        norms_alone = launch.name == "segment_sums_kernel" and launch.arguments["values"] is None
        if launch.name != "running_sum_kernel" and not norms_alone:
            assert sum(compiled.matmuls.values()) > 0, launch.name
        if launch.name == "local_kernel" and capability == 90 and dtype == torch.bfloat16 and size >= 64:
            few = launch.arguments["QUERIES"] < 64
            assert few or compiled.matmuls["wgmma"] > compiled.matmuls["mma"], launch.name
