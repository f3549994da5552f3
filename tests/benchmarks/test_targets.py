"""The speed that the three kernel methods and the window must reach: ratios taken in one process, fp32, B1 H8 D64."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from longatlas.bench.replay import TIMER, replay
from longatlas.combination import parse_spec
from longatlas.decoder.config import DecoderConfig
from longatlas.ops import blockwise_attention

ROUNDS = 9
HEADS, SIZE = 8, 64


@pytest.fixture(autouse=True)
def all_cores():
    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    with torch.no_grad():
        yield
    torch.set_num_threads(before)


def draw(length: int, count: int = 3) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(1, length, HEADS, SIZE) for _ in range(count)]


def sdpa(length: int) -> Callable[[], object]:
    q, k, v = (x.transpose(1, 2).contiguous() for x in draw(length))
    return lambda: scaled_dot_product_attention(q, k, v, is_causal=True)


def lightning(length: int) -> Callable[[], object]:
    from longatlas_plugins.efficient_attention.lightning_attention2 import decay_slopes, lightning_attention

    q, k, v = draw(length)
    decay = decay_slopes(HEADS, 0, 12)
    return lambda: lightning_attention(q, k, v, decay)


def infini(length: int) -> Callable[[], object]:
    from longatlas_plugins.long_term_memory.infini_attention import infini_attention

    q, k, v = draw(length)
    return lambda: infini_attention(q, k, v, torch.zeros(HEADS), segment_len=512)


def window(length: int) -> Callable[[], object]:
    builder, options = parse_spec("sliding_window:window=512").builder("attention")
    mask = builder(DecoderConfig(d_model=HEADS * SIZE, n_heads=HEADS), **options, impl="auto").mask_mod
    q, k, v = draw(length)
    return lambda: blockwise_attention(q, k, v, mask_mod=mask)


def relative(length: int, memory: int, *, shift: bool) -> Callable[[], object]:
    from formulations import einsum_and_shift_attention

    from longatlas_plugins.long_term_memory.transformer_xl import relative_attention

    q, k, v = draw(length, 1) + draw(length + memory, 2)
    rel_k, (u, b) = torch.randn(length + memory, HEADS, SIZE), torch.randn(2, HEADS, SIZE)
    attend = einsum_and_shift_attention if shift else relative_attention
    return lambda: attend(q, k, v, rel_k, u, b)


# name, ours, theirs, work of ours over work of theirs in tokens, target
TARGETS = [
    ("lightning_attention T=8192 over SDPA causal", lambda: lightning(8192), lambda: sdpa(8192), 1, 8),
    ("lightning_attention tokens/s at T=65536 over T=8192", lambda: lightning(65536), lambda: lightning(8192), 8, 0.9),
    ("infini_attention N=512 T=8192 over SDPA causal", lambda: infini(8192), lambda: sdpa(8192), 1, 2.5),
    ("sliding_window W=512 T=8192 over SDPA causal", lambda: window(8192), lambda: sdpa(8192), 1, 4),
    (
        "relative_attention L=M=1024 over einsum and shift",
        lambda: relative(1024, 1024, shift=False),
        lambda: relative(1024, 1024, shift=True),
        1,
        1.4,
    ),
]


@pytest.mark.benchmark(timer=TIMER, disable_gc=False, group="targets")
@pytest.mark.parametrize(("name", "ours", "theirs", "work", "target"), TARGETS, ids=[t[0] for t in TARGETS])
def test_ratio(benchmark, ratios, name, ours, theirs, work, target) -> None:
    ours, theirs = ours(), theirs()
    mine, other = alternate(ours, theirs)
    ratio = work * statistics.median(other) / statistics.median(mine)
    benchmark.name = name
    benchmark.fullname = f"longatlas::targets::{name}"
    replay(benchmark, mine)
    benchmark.extra_info.update(ratio=ratio, target=target)
    ratios.append((name, ratio, target))


def alternate(ours: Callable[[], object], theirs: Callable[[], object]) -> tuple[list[float], list[float]]:
    """Seconds of both, taken in turns so that a drifting machine hurts both alike."""
    ours(), theirs()
    mine, other = [], []
    for _ in range(ROUNDS):
        for run, times in ((ours, mine), (theirs, other)):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    return mine, other
