"""Time on the host's clock: warm up, then repeat until the median is known to 2% or the budget is spent."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from longatlas.decoder.decoder import Decoder
from longatlas.errors import UnsupportedError

MIN_SAMPLES = 5
MAX_SAMPLES = 500
TARGET = 0.02


def sample_seconds(run: Callable[[], None], budget: float, synchronise: Callable[[], None]) -> list[float]:
    """Seconds of each repetition of `run`, after one warm-up call.

    Stops when the 95% interval of the median is narrower than 2% of it, or when `budget` seconds are spent;
    at least five repetitions are made.
    """
    run()
    samples: list[float] = []
    while len(samples) < MIN_SAMPLES or (sum(samples) < budget and len(samples) < MAX_SAMPLES):
        synchronise()
        start = time.perf_counter()
        run()
        synchronise()
        samples.append(time.perf_counter() - start)
        if len(samples) >= 2 * MIN_SAMPLES:
            low, high = median_interval(samples)
            if high - low < TARGET * statistics.median(samples):
                break
    return samples


def median_interval(samples: Sequence[float]) -> tuple[float, float]:
    """The 95% interval of the median from order statistics; with fewer than six samples, the range."""
    ordered, rank = sorted(samples), _median_rank(len(samples))
    return ordered[rank], ordered[-1 - rank]


@cache
def _median_rank(n: int) -> int:
    """The most samples that can be left out at each end; how many lie below the median is binomial, p = 1/2."""
    below, rank = 1, 0  # below: ways to have at most `rank` samples under the median
    while (below := below + math.comb(n, rank + 1)) <= 0.025 * 2**n:
        rank += 1
    return rank


def phase_runner(decoder: Decoder, phase: str, length: int, batch: int, seed: int) -> Callable[[], None]:
    """What one repetition of a phase does.

    train    forward and backward on a fresh graph, gradients reset
    prefill  one forward call of T tokens
    decode   one token, from the state after T tokens

    Raises UnsupportedError for training with a context method.
    """
    tokens = random_tokens(decoder, batch, length + 1, seed)
    if phase == "train":
        if decoder.context is not None:
            raise UnsupportedError("a context method is put around a trained decoder; it is not trained itself")
        return lambda: _train_once(decoder, tokens)
    if phase == "prefill":
        return lambda: _forward(decoder, tokens[:, :length], None)
    with torch.no_grad():
        _, state = decoder(tokens[:, :length])
    return lambda: _forward(decoder, tokens[:, length:], state)


def random_tokens(decoder: Decoder, batch: int, length: int, seed: int) -> Tensor:
    """Tokens [batch, length] on the decoder's device."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(decoder.config.vocab_size, (batch, length), generator=generator)
    return tokens.to(next(decoder.parameters()).device)


def synchroniser(device: str) -> Callable[[], None]:
    """Waits until the device has finished; on a CPU there is nothing to wait for."""
    return torch.cuda.synchronize if device == "cuda" else lambda: None


def _train_once(decoder: Decoder, tokens: Tensor) -> None:
    for parameter in decoder.parameters():
        parameter.grad = None
    decoder.loss(tokens).backward()  # type: ignore[no-untyped-call]


@torch.no_grad()
def _forward(decoder: Decoder, tokens: Tensor, state: object) -> None:
    decoder(tokens, state)
