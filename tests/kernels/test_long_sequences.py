"""Kernels on long sequences: on a GPU a million tokens and tensors beyond 2^31 elements, elsewhere the same in small.

What is far away must not matter here (a decay, a window), so that the end of a text can be checked by itself.
"""

from __future__ import annotations

import pytest
import torch

from longatlas.testing.compare import rms_ratio
from longatlas_plugins.efficient_attention.lightning_attention2 import lightning_attention
from longatlas_plugins.long_term_memory.infini_attention import infini_attention
from longatlas_plugins.long_term_memory.transformer_xl import relative_attention


@pytest.fixture
def shape(device: str) -> tuple[int, int, int, int]:
    """B, T, H, D; memory is not poisoned, which would take longer than the kernels."""
    torch.utils.deterministic.fill_uninitialized_memory = False
    return (1, 2**20, 17, 128) if device == "cuda" else (1, 300, 1, 16)


def drawn(shape: tuple[int, int, int, int], device: str) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape, device=device, dtype=torch.bfloat16) for _ in range(3)]


@pytest.mark.parametrize("schedule", ["fused", "superchunks"])
def test_lightning(device: str, shape: tuple[int, int, int, int], schedule: str) -> None:
    q, k, v = (x.requires_grad_() for x in drawn(shape, device))
    decay = torch.full((shape[2],), 0.2, device=device)
    o, _ = lightning_attention(q, k, v, decay, impl="triton", schedule=schedule)
    end = slice(-200, None)
    grad = torch.zeros_like(o)
    grad[:, -50:] = 1
    found = torch.autograd.grad(o, [q, k, v], grad)
    exact = [x[:, end].detach().double().requires_grad_() for x in (q, k, v)]
    expected, _ = lightning_attention(*exact, decay.double(), impl="reference")
    assert rms_ratio(o[:, -50:], expected[:, -50:]) < 5e-3
    for a, b in zip(found, torch.autograd.grad(expected, exact, grad[:, end].double()), strict=True):
        assert rms_ratio(a[:, -100:], b[:, -100:]) < 1e-2
    assert not found[0][:, :-50].any()


def test_transformer_xl(device: str, shape: tuple[int, int, int, int]) -> None:
    q, k, v = (x.requires_grad_() for x in drawn(shape, device))
    window = 64
    rel_k, *biases = (torch.randn(n, *shape[2:], device=device).bfloat16() for n in (window, 1, 1))
    biases = [bias[0] for bias in biases]
    o = relative_attention(q, k, v, rel_k, *biases, window=window, impl="triton")
    grad = torch.zeros_like(o)
    grad[:, -50:] = 1
    found = torch.autograd.grad(o, [q, k, v], grad)
    exact = [x[:, -150:].detach().double().requires_grad_() for x in (q, k, v)]
    rest = [x.double() for x in (rel_k, *biases)]
    expected = relative_attention(*exact, *rest, window=window, impl="reference")
    assert rms_ratio(o[:, -50:], expected[:, -50:]) < 5e-3
    for a, b in zip(found, torch.autograd.grad(expected, exact, grad[:, -150:].double()), strict=True):
        assert rms_ratio(a[:, -80:], b[:, -80:]) < 1e-2


def test_infini(device: str, shape: tuple[int, int, int, int]) -> None:
    q, k, v = drawn(shape, device)
    gate = torch.zeros(shape[2], device=device)
    options = {"segment_len": 2048 if device == "cuda" else 64, "output_final_state": True}
    o, state = infini_attention(q, k, v, gate, impl="triton", **options)
    expected, final = infini_attention(q, k, v, gate, impl="torch", **options)
    assert state is not None
    assert final is not None
    assert rms_ratio(o[:, -2000:], expected[:, -2000:].double()) < 1e-2
    assert rms_ratio(state.memory, final.memory.double()) < 1e-2
    assert rms_ratio(state.norm, final.norm.double()) < 1e-3
