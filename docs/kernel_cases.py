"""What docs/measure_kernels.py measures: cases, their floors, and the peers that may be installed.

A floor counts what cannot be avoided: every input read and every output written once, the matrix products of the
mathematics, forward and backward (which reads inputs and the output's gradient, and writes the inputs' gradients).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Call = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """Shapes: B, T, H, D; M = tokens of memory before the T queries, N = tokens of a segment."""

    method: str
    B: int
    T: int
    H: int
    D: int
    M: int = 0
    N: int = 0
    decode: bool = False

    @property
    def name(self) -> str:
        sizes = "".join(f" {key}{getattr(self, key)}" for key in "BTHDMN" if getattr(self, key))
        return f"{self.method}{' decode' if self.decode else ''}{sizes}"

    @property
    def keys(self) -> int:
        return self.M + self.T


def lightning(b: int, t: int, h: int, d: int) -> Case:
    return Case("lightning_attention2", b, t, h, d)


CASES = (
    lightning(1, 8192, 96, 128),
    lightning(2, 16384, 16, 128),
    lightning(4, 2048, 16, 128),
    lightning(4, 4096, 64, 128),
    lightning(8, 1024, 8, 64),
    Case("lightning_attention2", 64, 1, 32, 128, decode=True),
    Case("transformer_xl", 4, 2048, 16, 64, M=2048),
    Case("transformer_xl", 1, 8192, 16, 128),
    Case("transformer_xl", 8, 1, 16, 64, M=8191, decode=True),
    Case("infini_attention", 1, 32768, 16, 128, N=2048),
    Case("infini_attention", 1, 131072, 16, 128, N=2048),
    Case("infini_attention", 8, 1, 16, 128, N=2048, decode=True),
)
SMOKE = (
    lightning(1, 70, 2, 16),
    Case("lightning_attention2", 2, 1, 2, 16, decode=True),
    Case("transformer_xl", 1, 40, 2, 16, M=24),
    Case("transformer_xl", 1, 1, 2, 16, M=40, decode=True),
    Case("infini_attention", 1, 100, 2, 16, N=32),
    Case("infini_attention", 1, 1, 2, 16, N=32, decode=True),
)


class Workload:
    """The tensors of a case, and what can be done with them. q, k, v [B, T or keys, H, D], bf16 by default."""

    def __init__(self, case: Case, device: str, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        self.case, self.device, self.dtype = case, device, dtype
        self.q, self.k, self.v = self.draw(case.T), self.draw(case.keys), self.draw(case.keys)
        self.inputs = [self.q, self.k, self.v]

    def draw(self, tokens: int) -> Tensor:
        x = torch.randn(self.case.B, tokens, self.case.H, self.case.D, device=self.device)
        return x.to(self.dtype).requires_grad_(not self.case.decode)

    def forward(self, impl: str) -> Callable[[], Tensor]:
        """The method itself."""
        raise NotImplementedError

    def flops(self) -> float:
        """Of forward."""
        raise NotImplementedError

    def state_bytes(self) -> int:
        """Of a state that is read and written."""
        return 0

    def moved_bytes(self) -> int:
        """Of forward."""
        return sum(x.nbytes for x in self.inputs) + self.q.nbytes + 2 * self.state_bytes()

    def backward_bytes(self) -> int:
        return 2 * sum(x.nbytes for x in self.inputs) + self.q.nbytes

    def peers(self) -> Iterator[tuple[str, Callable[[], Tensor]]]:
        """Other ways to compute the same, or, where the name says so, something near to it; those installed."""
        yield from ()

    def heads_first(self, *tensors: Tensor) -> list[Tensor]:
        return [x.transpose(1, 2) for x in tensors]

    def full_attention(self) -> Callable[[], Tensor]:
        """Causal softmax over everything, without a bias: PyTorch's flash kernel."""
        q, k, v = self.heads_first(self.q, self.k, self.v)
        whole = q.shape[2] == k.shape[2]
        return lambda: functional.scaled_dot_product_attention(q, k, v, is_causal=whole)


class Lightning(Workload):
    def __init__(self, case: Case, device: str, dtype: torch.dtype) -> None:
        super().__init__(case, device, dtype)
        self.decay = torch.tensor([2.0 ** (-8 * (h + 1) / case.H) for h in range(case.H)], device=device)
        self.state = torch.randn(case.B, case.H, case.D, case.D, device=device) if case.decode else None

    def forward(self, impl: str) -> Callable[[], Tensor]:
        from longatlas_plugins.efficient_attention.lightning_attention2 import lightning_attention, lightning_decode_

        if self.state is not None:
            state = self.state
            return lambda: lightning_decode_(self.q, self.k, self.v, self.decay, state, impl=impl)
        return lambda: lightning_attention(self.q, self.k, self.v, self.decay, impl=impl)[0]

    def flops(self) -> float:
        return 4 * self.q.numel() * self.case.D

    def state_bytes(self) -> int:
        return 0 if self.state is None else self.state.nbytes

    def peers(self) -> Iterator[tuple[str, Callable[[], Tensor]]]:
        if self.case.decode:
            return
        yield "SDPA flash, causal softmax", self.full_attention()
        try:
            from fla.ops.retention import chunk_retention
            from fla.ops.simple_gla import chunk_simple_gla
        except ImportError:
            return
        yield "fla chunk_retention", lambda: chunk_retention(self.q, self.k, self.v)[0]
        gamma = -self.decay.float()
        yield "fla chunk_simple_gla", lambda: chunk_simple_gla(self.q, self.k, self.v, g_gamma=gamma)[0]


class TransformerXL(Workload):
    def __init__(self, case: Case, device: str, dtype: torch.dtype) -> None:
        super().__init__(case, device, dtype)
        self.rel_k = torch.randn(case.keys, case.H, case.D, device=device).to(dtype)
        self.biases = [torch.randn(case.H, case.D, device=device).to(dtype) for _ in range(2)]
        for x in (self.rel_k, *self.biases):
            x.requires_grad_(not case.decode)
        self.inputs += [self.rel_k, *self.biases]

    def forward(self, impl: str) -> Callable[[], Tensor]:
        from longatlas_plugins.long_term_memory.transformer_xl import relative_attention

        return lambda: relative_attention(self.q, self.k, self.v, self.rel_k, *self.biases, impl=impl)

    def flops(self) -> float:
        case = self.case
        pairs = case.T * case.M + case.T * (case.T + 1) / 2
        return 6 * case.B * case.H * case.D * pairs

    def peers(self) -> Iterator[tuple[str, Callable[[], Tensor]]]:
        yield "SDPA flash, no positions", self.full_attention()
        if self.case.decode or self.device == "cpu":
            return
        yield "FlexAttention, bias in memory", self.flex_attention()

    def flex_attention(self) -> Callable[[], Tensor]:
        """The bias [B, H, T, keys] is made anew in each call, as it must be in training."""
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        case, memory = self.case, self.case.M
        attend = torch.compile(flex_attention, dynamic=False)
        mask = create_block_mask(lambda b, h, i, j: i + memory >= j, None, None, case.T, case.keys, device=self.device)
        scale = 1 / math.sqrt(case.D)
        distance = (torch.arange(case.T)[:, None] + memory - torch.arange(case.keys)).clamp(min=0).to(self.device)

        def run() -> Tensor:
            q, k, v = self.heads_first(self.q, self.k, self.v)
            by_distance = torch.einsum("bhtd,rhd->bhtr", q + self.biases[1][:, None], self.rel_k) * scale
            bias = by_distance.gather(3, distance.expand(case.B, case.H, -1, -1))
            return attend(
                q + self.biases[0][:, None],
                k,
                v,
                lambda s, b, h, i, j: s + bias[b, h, i, j],
                block_mask=mask,
                scale=scale,
            )

        return run


class Infini(Workload):
    def __init__(self, case: Case, device: str, dtype: torch.dtype) -> None:
        super().__init__(case, device, dtype)
        self.gate = torch.zeros(case.H, device=device, requires_grad=not case.decode)
        self.state = self.filled_state() if case.decode else None

    def filled_state(self) -> Any:
        """After two segments and half of a third."""
        from longatlas_plugins.long_term_memory.infini_attention import infini_attention

        tokens = 2 * self.case.N + self.case.N // 2
        with torch.no_grad():
            drawn = [self.draw(tokens) for _ in range(3)]
            return infini_attention(*drawn, self.gate, segment_len=self.case.N, output_final_state=True)[1]

    def forward(self, impl: str) -> Callable[[], Tensor]:
        from longatlas_plugins.long_term_memory.infini_attention import infini_attention

        return lambda: infini_attention(
            self.q, self.k, self.v, self.gate, segment_len=self.case.N, initial_state=self.state, impl=impl
        )[0]

    def flops(self) -> float:
        case = self.case
        if case.decode:
            return case.B * case.H * (4 * case.D * (case.N // 2) + 2 * case.D**2)
        return case.B * case.H * (4 * case.D * case.T * (case.N + 1) / 2 + 4 * case.D**2 * case.T)

    def state_bytes(self) -> int:
        return 0 if self.state is None else self.state.memory.nbytes // 2

    def moved_bytes(self) -> int:
        begun = 0 if self.state is None else self.state.k.nbytes + self.state.v.nbytes
        return super().moved_bytes() + begun

    def peers(self) -> Iterator[tuple[str, Callable[[], Tensor]]]:
        if self.case.decode:
            return
        yield "SDPA flash, whole text", self.full_attention()
        if self.case.T % self.case.N == 0:
            yield "SDPA flash, segments alone", self.segments_alone()

    def segments_alone(self) -> Callable[[], Tensor]:
        def run() -> Tensor:
            rows = (x.unflatten(1, (-1, self.case.N)).flatten(0, 1).transpose(1, 2) for x in (self.q, self.k, self.v))
            return functional.scaled_dot_product_attention(*rows, is_causal=True)

        return run


WORKLOADS: dict[str, type[Workload]] = {
    "lightning_attention2": Lightning,
    "transformer_xl": TransformerXL,
    "infini_attention": Infini,
}
