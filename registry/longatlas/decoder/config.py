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

    def __post_init__(self) -> None:
        if self.d_model % self.n_heads:
            raise LongAtlasError(
                f"d_model {self.d_model} is not divisible by n_heads {self.n_heads}; choose a multiple"
            )
        if self.n_heads % self.kv_heads:
            raise LongAtlasError(
                f"n_heads {self.n_heads} is not divisible by n_kv_heads {self.kv_heads}; choose a divisor"
            )

    @property
    def head_size(self) -> int:
        """D"""
        return self.d_model // self.n_heads

    @property
    def kv_heads(self) -> int:
        return self.n_kv_heads or self.n_heads

    @property
    def hidden(self) -> int:
        if self.ffn_hidden is not None:
            return self.ffn_hidden
        return -(-8 * self.d_model // 3 // 16) * 16
