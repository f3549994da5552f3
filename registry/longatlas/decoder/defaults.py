"""The plain choice for every slot: RoPE, growing KV cache, causal softmax, SwiGLU, next-token loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from longatlas.ops import causal, rotary_embedding
from longatlas.slots import Attention, Memory, Position, Seen

if TYPE_CHECKING:
    from longatlas.decoder.config import DecoderConfig
    from longatlas.decoder.decoder import Decoder


class KVCache(NamedTuple):
    """Keys and values [B, S, H, D] with the position [S] of each; `end` is the position of the next token."""

    k: Tensor
    v: Tensor
    positions: Tensor
    end: int


def position(config: DecoderConfig) -> Position:
    """Rotary position embedding (arXiv:2104.09864), base 10000."""
    return Position(rotate=rotary_embedding(config.head_size))


def memory(config: DecoderConfig) -> Memory:
    """A key-value cache that grows with every token."""
    return Memory(grow_cache)


def grow_cache(k: Tensor, v: Tensor, past: KVCache | None) -> Seen:
    """Append the segment's keys and values [B, T, H, D] to those of the past."""
    start = past.end if past else 0
    end = start + k.shape[1]
    positions = torch.arange(start, end, device=k.device)
    if past is not None:
        k, v = torch.cat([past.k, k], 1), torch.cat([past.v, v], 1)
        positions = torch.cat([past.positions, positions])
    return Seen(k, v, KVCache(k, v, positions, end), positions)


def keep(seen: Seen, kept: Tensor) -> Seen:
    """`seen` with a past that holds only the keys where the bool tensor `kept` [S] is true."""
    cache: KVCache = seen.past
    return seen._replace(past=KVCache(cache.k[:, kept], cache.v[:, kept], cache.positions[kept], cache.end))


def attention(config: DecoderConfig) -> Attention:
    """Causal softmax attention over everything the memory shows."""
    return Attention(mask_mod=causal)


class SwiGLU(nn.Module):
    """Gated feed-forward part (arXiv:2002.05202): W_down (silu(W_gate x) * W_up x)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.d_model, config.hidden, bias=False)
        self.up = nn.Linear(config.d_model, config.hidden, bias=False)
        self.down = nn.Linear(config.hidden, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(functional.silu(self.gate(x)) * self.up(x))
        return out


ffn = SwiGLU


def objective(config: DecoderConfig) -> object:
    """Next-token cross-entropy."""
    return next_token_loss


def next_token_loss(decoder: Decoder, tokens: Tensor) -> Tensor:
    """Mean cross-entropy in nats of tokens [B, T] from the second on."""
    logits, _ = decoder(tokens[:, :-1])
    return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
