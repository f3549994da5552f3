"""Int8Linear takes the place of nn.Linear, and quantises float weights on loading (arXiv:2208.07339)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from longatlas_plugins.misc.int8_weights.fast import quantize_rows, scale_back
from longatlas_plugins.misc.int8_weights.operation import int8_linear


class Int8Linear(nn.Module):
    """A linear layer with the buffers weight int8 [out, in] and scale fp32 [out]; a bias stays a parameter.

    The scale stays in fp32 whatever dtype the decoder takes. A state dict with a floating-point `weight` is
    quantised on loading. The attribute `integers` is the buffer; `weight` is it scaled back, so that a mixer
    which reads a layer's weight by itself gets the right numbers.
    """

    scale: Tensor
    _like: Tensor

    def __init__(
        self, linear: nn.Linear, *, threshold: float = 6.0, activations: bool = True, impl: str = "auto"
    ) -> None:
        super().__init__()
        weight, scale = _quantize(linear.weight.detach())
        # Not by register_buffer, which refuses the name of the property.
        self._buffers["weight"] = weight
        self.register_buffer("scale", scale)
        self.register_buffer("_like", linear.weight.new_empty(0), persistent=False)
        self.bias = linear.bias
        self.threshold, self.activations, self.impl = threshold, activations, impl

    @property
    def integers(self) -> Tensor:
        """int8 [out, in]"""
        integers = self._buffers["weight"]
        assert integers is not None
        return integers

    @property
    def weight(self) -> Tensor:
        """scale * integers [out, in], in the dtype that the decoder's weights have."""
        return scale_back(self.integers, self.scale, self._like.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        y = int8_linear(
            x,
            self.integers,
            self.scale,
            threshold=self.threshold,
            activations=self.activations,
            impl=self.impl,
        )
        return y if self.bias is None else y + self.bias

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Int8Linear:
        scale = self.scale
        super()._apply(fn, recurse)
        self.scale = scale.to(self.scale.device)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        weight = state_dict.get(prefix + "weight")
        if weight is not None and weight.is_floating_point():
            state_dict[prefix + "weight"], state_dict[prefix + "scale"] = _quantize(weight)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    integers, step = quantize_rows(weight.float())
    return integers, step.squeeze(-1)


def quantize_blocks(stack: nn.Module, *, threshold: float, activations: bool, impl: str) -> nn.Module:
    """Replace every nn.Linear inside the stack's blocks; embedding and head stay. Returns the stack."""
    blocks = stack.get_submodule("blocks")
    for parent in list(blocks.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(
                    parent,
                    name,
                    Int8Linear(child, threshold=threshold, activations=activations, impl=impl),
                )
    return stack


def weight_bytes(module: nn.Module) -> int:
    """Bytes of a module's parameters and buffers, each tensor counted once."""
    tensors = {id(t): t for t in [*module.parameters(), *module.buffers()]}
    return sum(t.numel() * t.element_size() for t in tensors.values())
