"""Floating-point operations of a cell: the method's formula for the operation, and what the decoder puts around it."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

from torch import Tensor, nn

from longatlas.combination import Combination
from longatlas.decoder.config import DecoderConfig
from longatlas.flops import Call, causal_softmax

BACKWARD = 2  # products for each product of forward: the gradients of both its factors
_OPERATION = ("mixer", "attention", "memory")
_OUTSIDE = ("position", "model", "objective")


def operation_flops(combination: Combination, call: Call) -> float | None:
    """Of one call of one layer's operation; None where the method gives no formula.

    What fills none of mixer, attention and memory computes vanilla's. Two parts that both do have no common formula.
    """
    parts = [part for part in combination.parts if any(slot in part.method.fills for slot in _OPERATION)]
    if not parts:
        known = all(slot in _OUTSIDE for part in combination.parts for slot in part.method.fills)
        return causal_softmax(call) if known else None
    formula = parts[0].method.flops
    if len(parts) > 1 or formula is None:
        return None
    return float(formula(call, **_named(formula, parts[0].options)))


def cell_flops(
    combination: Combination, module: nn.Module, config: DecoderConfig, cell: dict[str, Any]
) -> float | None:
    """Of one repetition of a speed cell; None where the method gives no formula.

    module  what is measured at the cell's level; its linear layers are counted as 2 operations per weight and token
    """
    tokens, past = (1, cell["T"]) if cell["phase"] == "decode" else (cell["T"], 0)
    layers = 1 if cell["level"] != "decoder" else config.n_layers
    calls = [Call(tokens, past, config.n_heads, config.head_size, i, config.n_layers) for i in range(layers)]
    operations = [operation_flops(combination, call) for call in calls]
    if any(found is None for found in operations):
        return None
    around = 0 if cell["level"] == "operation" else 2 * tokens * linear_weights(module)
    forward = int(cell["case"]["batch"]) * (sum(found or 0.0 for found in operations) + around)
    return forward * (1 + BACKWARD) if cell["phase"] == "train" else forward


def linear_weights(module: nn.Module) -> int:
    """Weights of all layers that multiply every token by a matrix, quantised ones included."""
    weights = (getattr(part, "weight", None) for part in module.modules() if not isinstance(part, nn.Embedding))
    return sum(weight.numel() for weight in weights if isinstance(weight, Tensor) and weight.dim() == 2)


def _named(formula: Callable[..., float], options: Any) -> dict[str, Any]:
    wanted = signature(formula).parameters
    return {name: value for name, value in options.items() if name in wanted}
