"""What is measured at each level: the operation on q, k, v, one layer, or the whole decoder.

A subject builds its inputs, runs one phase, and knows the tensors that belong to it.

train    forward and backward on a fresh graph, gradients reset
prefill  one forward call of T tokens
decode   one token, from the state after T tokens
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from longatlas.combination import Combination, parse_spec
from longatlas.decoder.config import DecoderConfig
from longatlas.decoder.decoder import Decoder
from longatlas.decoder.operation import Operation, operation
from longatlas.decoder.stack import Block
from longatlas.decoder.state import Clocked, clocked
from longatlas.decoder.teacher import give_random_teacher
from longatlas.errors import UnsupportedError
from longatlas.measure.live_bytes import UsedStorages

Inputs = tuple[Tensor, ...]

# Slots without an effect at a level: there the method is what it is put on.
_OUTSIDE = {
    "operation": ("ffn", "model", "context", "objective"),
    "layer": ("context", "objective"),
    "decoder": (),
}


class Subject(Protocol):
    """Something that is called as `forward(inputs, state) -> (outputs, state)` and can be trained."""

    config: DecoderConfig

    @property
    def module(self) -> nn.Module:
        """What holds the weights."""

    def weights(self) -> list[Tensor]:
        """The parameters and buffers that a call reads."""

    def inputs(self, length: int, *, train: bool = False) -> Inputs:
        """Random inputs of `length` tokens; for training they and their targets."""

    def forward(self, inputs: Inputs, state: Any) -> tuple[Tensor, Any]:
        """One call."""

    def train_forward(self, inputs: Inputs) -> tuple[Tensor, Tensor | None]:
        """What backward starts from, and its gradient (None for a scalar)."""


@dataclass
class Drawn:
    """Random numbers on a device, from a seed."""

    batch: int
    device: str
    dtype: torch.dtype
    seed: int

    def normal(self, *shape: int, grad: bool = False) -> Tensor:
        """[batch, *shape]"""
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.randn(self.batch, *shape, generator=generator)
        return drawn.to(self.device, self.dtype).requires_grad_(grad)

    def tokens(self, vocab_size: int, length: int) -> Tensor:
        """[batch, length]"""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randint(vocab_size, (self.batch, length), generator=generator).to(self.device)


class WholeDecoder:
    """tokens [B, T] -> logits [B, T, V]"""

    def __init__(self, decoder: Decoder, drawn: Drawn) -> None:
        self.module, self.config, self._drawn = decoder, decoder.config, drawn

    def weights(self) -> list[Tensor]:
        return held(self.module)

    def inputs(self, length: int, *, train: bool = False) -> Inputs:
        if train:
            self.module.check_trains()
        return (self._drawn.tokens(self.config.vocab_size, length + train),)

    def forward(self, inputs: Inputs, state: Any) -> tuple[Tensor, Any]:
        return self.module(inputs[0], state)  # type: ignore[no-any-return]

    def train_forward(self, inputs: Inputs) -> tuple[Tensor, Tensor | None]:
        return self.module.loss(inputs[0]), None


class OneLayer:
    """hidden states x [B, T, d_model] -> y [B, T, d_model]: a block with its norms, projections and ffn"""

    def __init__(self, decoder: Decoder, drawn: Drawn) -> None:
        self.module, self.config, self._drawn = _first_block(decoder), decoder.config, drawn

    def weights(self) -> list[Tensor]:
        return held(self.module)

    def inputs(self, length: int, *, train: bool = False) -> Inputs:
        x = self._drawn.normal(length, self.config.d_model, grad=train)
        return (x, torch.ones_like(x)) if train else (x,)

    def forward(self, inputs: Inputs, state: Clocked | None) -> tuple[Tensor, Clocked]:
        return clocked(self.module)(inputs[0], state)

    def train_forward(self, inputs: Inputs) -> tuple[Tensor, Tensor | None]:
        return self.forward(inputs, None)[0], inputs[1]


class OperationAlone:
    """q [B, T, H, D], k and v [B, T, Hkv, D] before rotation -> o [B, T, H, D]: longatlas.operation"""

    def __init__(self, module: Operation, drawn: Drawn) -> None:
        self.module, self.config, self._drawn = module, module.config, drawn

    def weights(self) -> list[Tensor]:
        """Those that operations are given in a call of one token: gates and norms around `mix` are not."""
        with UsedStorages() as used:
            forward_once(self, self.inputs(1), None)
        return [weight for weight in held(self.module) if used.has(weight)]

    def inputs(self, length: int, *, train: bool = False) -> Inputs:
        size = self.config.head_size
        heads = (self.config.n_heads, self.config.kv_heads, self.config.kv_heads)
        q, k, v = (self._drawn.normal(length, h, size, grad=train) for h in heads)
        return (q, k, v, torch.ones_like(q)) if train else (q, k, v)

    def forward(self, inputs: Inputs, state: Any) -> tuple[Tensor, Any]:
        return self.module.mix(inputs[0], inputs[1], inputs[2], state)

    def train_forward(self, inputs: Inputs) -> tuple[Tensor, Tensor | None]:
        return self.forward(inputs, None)[0], inputs[3]


def build(cell: dict[str, Any]) -> Subject:
    """The subject of a speed or memory cell, its weights from the cell's seed.

    cell  the fields of longatlas.harness.cells.Cell

    Raises UnsupportedError where the method has no part in the level.
    """
    combination, level, case = parse_spec(cell["method"]), cell["level"], cell["case"]
    _check_level(combination, level)
    config = DecoderConfig(
        d_model=case["heads"] * case["head_size"],
        n_layers=case.get("layers", 1),
        n_heads=case["heads"],
        n_kv_heads=case.get("kv_heads"),
        train_length=cell["T"],
    )
    dtype = getattr(torch, cell["dtype"])
    torch.manual_seed(cell["seed"])
    drawn = Drawn(case["batch"], cell["device"], dtype, cell["seed"])
    if level == "operation":
        return OperationAlone(operation(combination, config, impl=cell["impl"]).to(cell["device"], dtype), drawn)
    decoder = Decoder(config, combination, impl=cell["impl"]).to(cell["device"], dtype)
    if level == "layer":
        return OneLayer(decoder, drawn)
    return WholeDecoder(give_random_teacher(decoder) if cell["phase"] == "train" else decoder, drawn)


def tokens_of(cell: dict[str, Any]) -> int:
    """Tokens of one repetition of a cell's phase."""
    return int(cell["case"]["batch"]) * (1 if cell["phase"] == "decode" else int(cell["T"]))


@dataclass
class Repetition:
    """One repetition of a phase, to be called; it gives what forward gave.

    inputs, state  what the call is given; None where it starts without a state
    """

    subject: Subject
    inputs: Inputs
    state: Any
    train: bool

    def __call__(self) -> tuple[Tensor, Any]:
        if self.train:
            return train_once(self.subject, self.inputs), None
        return forward_once(self.subject, self.inputs, self.state)

    @property
    def read(self) -> list[Tensor]:
        """What forward reads of the inputs: in training not the gradient that backward starts from."""
        return [x for x in self.inputs if not self.train or x.requires_grad or not x.is_floating_point()]


def phase_runner(subject: Subject, phase: str, length: int) -> Repetition:
    """What one repetition of a phase does. Raises UnsupportedError for training with a context that does not train."""
    if phase == "train":
        return Repetition(subject, subject.inputs(length, train=True), None, train=True)
    if phase == "prefill":
        return Repetition(subject, subject.inputs(length), None, train=False)
    return Repetition(subject, subject.inputs(1), state_after(subject, length), train=False)


@torch.no_grad()
def state_after(subject: Subject, length: int) -> Any:
    """The state after a prefill of `length` tokens."""
    return subject.forward(subject.inputs(length), None)[1]


def train_once(subject: Subject, inputs: Inputs) -> Tensor:
    """Forward and backward on a fresh graph; what backward started from."""
    reset_gradients(subject, inputs)
    y, gradient = subject.train_forward(inputs)
    torch.autograd.backward(y, gradient)
    return y.detach()


def reset_gradients(subject: Subject, inputs: Inputs) -> None:
    """Forget the gradients of weights and inputs."""
    for tensor in (*subject.module.parameters(), *inputs):
        tensor.grad = None


@torch.no_grad()
def forward_once(subject: Subject, inputs: Inputs, state: Any) -> tuple[Tensor, Any]:
    """One call without a graph."""
    return subject.forward(inputs, state)


def held(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers."""
    return [*module.parameters(), *module.buffers()]


def _first_block(decoder: Decoder) -> Block:
    """The first block, also inside what a `model` method has wrapped around the decoder."""
    block = next((module for module in decoder.modules() if isinstance(module, Block)), None)
    if block is None:
        raise UnsupportedError("what its model method returns holds no longatlas block; measure the level decoder")
    return block


def _check_level(combination: Combination, level: str) -> None:
    slots = {slot for part in combination.parts for slot in part.method.fills}
    if slots <= set(_OUTSIDE[level]):
        raise UnsupportedError(
            f"it fills {', '.join(sorted(slots))}, which is no part of the level {level}: there it is what it is put on"
        )
