"""Compares an impl with the reference: outputs, final state and every gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from longatlas.cards import PEER
from longatlas.decoder.decoder import Decoder
from longatlas.decoder.operation import operation
from longatlas.decoder.state import tensors
from longatlas.errors import UnsupportedError
from longatlas.parallel.shards import whole
from longatlas.testing.case import Case
from longatlas.testing.compare import EXACT, require, require_close, rms_ratio

Evidence = list[tuple[str, Tensor]]

GRADIENT = "the gradient of "

SEEDS = (0, 1, 2, 3, 4)
WITHOUT_DOUBLE = ("triton", PEER)


class Tolerance(NamedTuple):
    """Allowed RMS ratio against fp64 of outputs and states, of gradients, and as a multiple of the reference's own."""

    forward: float
    gradient: float
    multiple: float


ROUGH = {
    torch.float64: Tolerance(EXACT, EXACT, 4),  # of peers; an impl is held to it in any case
    torch.float32: Tolerance(1e-4, 1e-4, 4),
    torch.bfloat16: Tolerance(5e-3, 1e-2, 1.5),
    torch.float16: Tolerance(5e-3, 1e-2, 1.5),
}


class Agreement(NamedTuple):
    """The worst RMS ratio between an impl and the fp64 reference, over outputs, states and gradients."""

    worst: float


def compare_impl(case: Case, impl: str, length: int, dtype: torch.dtype = torch.float32) -> Agreement:
    """Fail where `impl` departs from impl "reference" on `length` tokens.

    In fp64 they must agree to 1e-9 (kernels, impl "triton", have no fp64, nor do most peers: these are compared in
    `dtype` alone). In `dtype` the impl may differ from the fp64 reference by the RMS ratio in ROUGH, or by a multiple
    of what the reference itself loses in that dtype where that is more. Rounding to integers and top-k turn a last-bit
    difference into a visible one now and then, so a rough dtype fails only when it fails for every one of five seeds.
    """
    exact = evidence(case, "reference", torch.float64, length)
    if not impl.startswith(WITHOUT_DOUBLE):
        agreement = _compare_double(case, impl, length, exact)
        if dtype == torch.float64:
            return agreement
    for seed in SEEDS:
        try:
            return _compare_rough(case, impl, length, dtype, seed, exact)
        except AssertionError:
            if seed == SEEDS[-1]:
                raise
            exact = evidence(case, "reference", torch.float64, length, seed + 1)
    raise RuntimeError("no seed was tried")


def _compare_double(case: Case, impl: str, length: int, expected: Evidence) -> Agreement:
    found = evidence(case, impl, torch.float64, length)
    require_same(found, expected, f"impl '{impl}' at T = {length}")
    return _worst(found, expected)


def require_same(found: Evidence, expected: Evidence, what: str, tolerance: float = EXACT) -> None:
    """Fail unless two runs agree in everything, in fp64 where no other tolerance is given."""
    _require_same_names(found, expected, what)
    for (name, a), (_, b) in zip(found, expected, strict=True):
        if _is_zero(b):
            require(_is_zero(a), f"{what}: {name} should be zero")
        else:
            require_close(a, b, tolerance, f"{what}: {name} ({str(b.dtype).removeprefix('torch.')})")


def _compare_rough(case: Case, impl: str, length: int, dtype: torch.dtype, seed: int, exact: Evidence) -> Agreement:
    rough = evidence(case, "reference", dtype, length, seed)
    found = evidence(case, impl, dtype, length, seed)
    tolerance = ROUGH[dtype]
    _require_same_names(found, exact, f"impl '{impl}' at T = {length}")
    for (name, a), (_, b), (_, c) in zip(found, exact, rough, strict=True):
        if not _is_zero(b):
            least = tolerance.gradient if name.startswith(GRADIENT) else tolerance.forward
            allowed = max(least, tolerance.multiple * rms_ratio(c, b))
            require_close(a, b, allowed, f"impl '{impl}' at T = {length}: {name} ({str(dtype).removeprefix('torch.')})")
    return _worst(found, exact)


def _require_same_names(found: Evidence, expected: Evidence, what: str) -> None:
    same = [name for name, _ in found] == [name for name, _ in expected]
    require(same, f"{what} has other outputs, state or parameters than what it is compared with")


def _worst(found: Evidence, expected: Evidence) -> Agreement:
    pairs = zip(found, expected, strict=True)
    return Agreement(max(rms_ratio(a, b) for (_, a), (_, b) in pairs if not _is_zero(b)))


def _is_zero(tensor: Tensor) -> bool:
    return tensor.numel() == 0 or float(tensor.double().abs().max()) < 1e-10


def evidence(case: Case, impl: str, dtype: torch.dtype, length: int, seed: int = 0) -> Evidence:
    """Outputs, final state and gradients of one run, by name; what ranks hold parts of is made whole."""
    decoder = case.decoder(impl=impl, dtype=dtype, seed=seed)
    tokens = case.tokens(length)
    if case.is_context:
        with torch.no_grad():
            logits, state = decoder(case.tokens(200, seed=7))
            more, state = decoder(tokens, state)
        gradients = []
        if decoder.context is not None and decoder.context.trains:
            decoder.loss(case.tokens(200, seed=7)).backward()  # type: ignore[no-untyped-call]
            gradients = _gradients(decoder)
        return [("the answer", logits), ("the output", more), *_named_state(state), *gradients]
    logits, state = decoder(tokens)
    with torch.no_grad():
        decoded, _ = decoder(tokens[:, :1], state)
    weight = torch.randn(logits.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    (logits * weight.to(logits)).sum().backward()
    outputs = [("the output", logits.detach()), ("the output of one more token", decoded)]
    return [*outputs, *_operation(case, impl, dtype, length, seed), *_named_state(state), *_gradients(decoder)]


def _gradients(decoder: Decoder) -> Evidence:
    return [
        (f"{GRADIENT}{name}", whole(p.grad if p.grad is not None else torch.zeros_like(p)))
        for name, p in decoder.named_parameters()
    ]


def _operation(case: Case, impl: str, dtype: torch.dtype, length: int, seed: int) -> Evidence:
    """The first layer's operation alone: a norm after it hides its scale from the decoder's outputs."""
    torch.manual_seed(seed)
    try:
        alone = operation(case.scaled, case.config, impl=impl).to(case.device, dtype)
    except UnsupportedError:
        return []
    generator = torch.Generator().manual_seed(seed)
    config, like = case.config, torch.empty(0, dtype=dtype, device=case.device)
    heads = (config.n_heads, config.kv_heads, config.kv_heads, config.n_heads)
    shapes = [(2, length, h, config.head_size) for h in heads]
    *inputs, weight = (torch.randn(shape, generator=generator, dtype=torch.float64).to(like) for shape in shapes)
    q, k, v = (x.requires_grad_() for x in inputs)
    o, _ = alone.mix(q, k, v)
    gradients = torch.autograd.grad(o, inputs, weight)
    named = [(f"{GRADIENT}{name} of the operation", x) for name, x in zip("qkv", gradients, strict=True)]
    return [("the operation's output", o.detach()), *named]


def _named_state(state: Any) -> Evidence:
    return [(f"tensor {i} of the final state", t.detach()) for i, t in enumerate(tensors(whole(state)))]
