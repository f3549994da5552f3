"""What the compiler makes of Transformer-XL's kernels: all tiles fit into registers and memory, on tensor cores."""

from __future__ import annotations

import pytest
import torch

from longatlas.kernels import recorded_launches
from longatlas.testing.compiled import compile_launch
from longatlas_plugins.long_term_memory.transformer_xl import relative_attention

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
KERNELS = {
    "forward_kernel",
    "query_gradient_kernel",
    "key_gradient_kernel",
    "distance_gradient_kernel",
    "decode_kernel",
    "combine_kernel",
}


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("size", [16, 48, 64, 96, 128, 192, 256])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_every_kernel(dtype: torch.dtype, size: int, capability: int) -> None:
    q, k, v = (torch.zeros(1, tokens, 2, size, dtype=dtype, requires_grad=True) for tokens in (300, 500, 500))
    rel_k = torch.zeros(500, 2, size, dtype=dtype, requires_grad=True)
    bias = torch.zeros(2, size, dtype=dtype)
    with recorded_launches(capability) as launches:
        o = relative_attention(q, k, v, rel_k, bias, bias, impl="triton")
        torch.autograd.grad(o.float().sum(), [q, k, v, rel_k])
        with torch.no_grad():
            relative_attention(q[:, :1].contiguous(), k, v, rel_k, bias, bias, impl="triton")
    assert {launch.name for launch in launches} == KERNELS
    for launch in launches:
        compiled = compile_launch(launch, capability)
        compiled.check()
        if launch.name not in ("decode_kernel", "combine_kernel"):
            assert sum(compiled.matmuls.values()) > 0, launch.name
            if capability == 90 and dtype != torch.float32 and size >= 64:
                assert compiled.matmuls["wgmma"] > compiled.matmuls["mma"], launch.name
