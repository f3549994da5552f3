"""What the compiler makes of Lightning Attention-2's kernels: tiles fit into registers and memory, on tensor cores."""

from __future__ import annotations

import pytest
import torch

from longatlas.kernels import Launch, recorded_launches
from longatlas.testing.compiled import compile_launch
from longatlas_plugins.efficient_attention.lightning_attention2 import lightning_attention, lightning_decode_
from longatlas_plugins.efficient_attention.lightning_attention2.kernels import autograd
from longatlas_plugins.efficient_attention.lightning_attention2.kernels.tiles import Tiles, candidates

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
SIZES = [16, 48, 64, 96, 128, 192, 256]
CASES = [
    pytest.param(dtype, size, capability, tiles, id=f"{name}-D{size}-sm{capability}-{tiles.chunk}x{tiles.columns}-{i}")
    for name, dtype in DTYPES.items()
    for size in SIZES
    for capability in (80, 90)
    for i, tiles in enumerate(candidates(dtype, size, size, capability))
]


def started(dtype: torch.dtype, size: int, capability: int, schedule: str = "fused") -> list[Launch]:
    """Forward and backward of 600 tokens."""
    q, k, v = (torch.zeros(1, 600, 2, size, dtype=dtype, requires_grad=True) for _ in range(3))
    state = torch.zeros(1, 2, size, size, requires_grad=True)
    with recorded_launches(capability) as launches:
        o, final = lightning_attention(
            q, k, v, torch.zeros(2), initial_state=state, output_final_state=True, impl="triton", schedule=schedule
        )
        assert final is not None
        torch.autograd.grad(o.float().sum() + final.sum(), [q, k, v, state])
    return launches


@pytest.mark.parametrize(("dtype", "size", "capability", "tiles"), CASES)
def test_scan(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, size: int, capability: int, tiles: Tiles) -> None:
    monkeypatch.setattr(autograd, "choose", lambda *_: tiles)
    forward, dq, dv, dk = started(dtype, size, capability)
    assert [launch.arguments["REVERSE"] for launch in (forward, dq, dv, dk)] == [False, False, True, True]
    sums = started(dtype, size, capability, schedule="superchunks")[0]
    assert sums.arguments["out"] is None
    for launch in (forward, dv, sums):  # dq and dk differ from these in the order of the state's two dimensions alone
        compiled = compile_launch(launch, capability)
        compiled.check()
        assert sum(compiled.matmuls.values()) > 0
        if capability == 90 and dtype == torch.bfloat16 and size >= 64 and tiles.chunk == 64:
            assert compiled.matmuls["wgmma"] > compiled.matmuls["mma"]


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_all_launches_of_superchunks(dtype: torch.dtype, capability: int) -> None:
    launches = started(dtype, 64, capability, schedule="superchunks")
    assert [launch.name for launch in launches] == [
        "scan_kernel", "carry_kernel", "scan_kernel", "scan_kernel", "carry_kernel", "scan_kernel",
        "scan_kernel", "carry_kernel", "scan_kernel", "scan_kernel",
    ]  # fmt: skip
    for launch in launches:
        compile_launch(launch, capability).check()


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("size", SIZES)
def test_decode(size: int, capability: int) -> None:
    with recorded_launches(capability) as launches:
        q, v = torch.zeros(2, 1, 3, size, dtype=torch.bfloat16), torch.zeros(2, 1, 3, 48, dtype=torch.bfloat16)
        lightning_decode_(q, q, v, torch.zeros(3), torch.zeros(2, 3, size, 48), impl="triton")
    (launch,) = launches
    compile_launch(launch, capability).check()
