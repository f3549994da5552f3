"""The shape of a decoder."""

from __future__ import annotations

from dataclasses import dataclass

from longatlas.errors import LongAtlasError


@dataclass(frozen=True)
class DecoderConfig:
    """Shape of a decoder; builders get it with `layer` set to their layer.

    vocab_size    V
    d_model       width of the hidden states
    n_layers      number of blocks
    n_heads       H
    n_kv_heads    heads of k and v; None = n_heads
    ffn_hidden    hidden width of the feed-forward part; None = 8/3 d_model, rounded up to 16; 0 = no ffn
    train_length  longest sequence seen in training, tokens: what position scaling stretches
    short_conv    taps of a causal depthwise convolution before the mixer; 0 = none
    layer         index of the layer that is being built
    head_size     D; 0 = d_model / n_heads
    rope_base     b of the rotary angles per token, θ_i = b^(-2i/D)
    rope_theta    the angles themselves [D/2], where a model has its own; fewer turn the first pairs only. () = by
                  rope_base

    Raises LongAtlasError for sizes that do not fit together.
    """

    vocab_size: int = 256
    d_model: int = 128
    n_layers: int = 2
    n_heads: int = 4
    n_kv_heads: int | None = None
    ffn_hidden: int | None = None
    train_length: int = 512
    short_conv: int = 0
    layer: int = 0
    head_size: int = 0
    rope_base: float = 10000.0
    rope_theta: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.head_size < 0:
            raise LongAtlasError(f"head_size is {self.head_size}; it must be at least 1, or 0 for d_model / n_heads")
        if not self.head_size:
            if self.d_model % self.n_heads:
                raise LongAtlasError(
                    f"d_model {self.d_model} is not divisible by n_heads {self.n_heads}; choose a multiple, or give "
                    "head_size"
                )
            object.__setattr__(self, "head_size", self.d_model // self.n_heads)
        if self.n_heads % self.kv_heads:
            raise LongAtlasError(
                f"n_heads {self.n_heads} is not divisible by n_kv_heads {self.kv_heads}; choose a divisor"
            )
        if not self.rope_base > 1:
            raise LongAtlasError(f"rope_base is {self.rope_base}; it must be above 1, such as 10000")
        if 2 * len(self.rope_theta) > self.head_size:
            raise LongAtlasError(
                f"rope_theta has {len(self.rope_theta)} angles; heads of size {self.head_size} have at most "
                f"{self.head_size // 2} pairs to turn"
            )

    @property
    def width(self) -> int:
        """H D, the width of all heads together."""
        return self.n_heads * self.head_size

    @property
    def kv_heads(self) -> int:
        return self.n_kv_heads or self.n_heads

    @property
    def hidden(self) -> int:
        if self.ffn_hidden is not None:
            return self.ffn_hidden
        return -(-8 * self.d_model // 3 // 16) * 16
