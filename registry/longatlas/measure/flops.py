"""Floating-point operations of a cell: the method's formula for the operation, and what the decoder puts around it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from longatlas.combination import Combination, operation_flops
from longatlas.decoder.config import DecoderConfig
from longatlas.flops import Call

BACKWARD = 2  # products for each product of forward: the gradients of both its factors


def cell_flops(
    combination: Combination, module: nn.Module, config: DecoderConfig, cell: dict[str, Any]
) -> float | None:
    """Of one repetition of a speed cell; None where the method gives no formula.

    module  what is measured at the cell's level; its linear layers are counted as 2 operations per weight and token
    """
    tokens, past = (1, cell["T"]) if cell["phase"] == "decode" else (cell["T"], 0)
    layers = 1 if cell["level"] != "decoder" else config.n_layers
    call = Call(tokens, past, config.n_heads, config.head_size, n_layers=config.n_layers, n_kv_heads=config.n_kv_heads)
    operations = [operation_flops(combination, replace(call, layer=i)) for i in range(layers)]
    if any(found is None for found in operations):
        return None
    around = 0 if cell["level"] == "operation" else 2 * tokens * linear_weights(module)
    forward = int(cell["case"]["batch"]) * (sum(found or 0.0 for found in operations) + around)
    return forward * (1 + BACKWARD) if cell["phase"] == "train" else forward


def linear_weights(module: nn.Module) -> int:
    """Weights of all layers that multiply every token by a matrix, quantised ones included."""
    weights = (getattr(part, "weight", None) for part in module.modules() if not isinstance(part, nn.Embedding))
    return sum(weight.numel() for weight in weights if isinstance(weight, Tensor) and weight.dim() == 2)
