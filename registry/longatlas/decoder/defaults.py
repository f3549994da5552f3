"""The plain choice for every slot: RoPE, growing KV cache, causal softmax, SwiGLU, next-token loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from longatlas.losses import NO_LABEL
from longatlas.ops import causal
from longatlas.slots import Attention, Here, Memory, Position, Seen

if TYPE_CHECKING:
    from longatlas.decoder.config import DecoderConfig


class KVCache(NamedTuple):
    """Keys and values [B, S, H, D] with the position of each, [S], or [B, S] after a padded batch.

    visible  bool [B, S], false for padding; None = no padding
    """

    k: Tensor
    v: Tensor
    positions: Tensor
    visible: Tensor | None = None


def position(config: DecoderConfig) -> Position:
    """Rotary position embedding (arXiv:2104.09864) with the host's own angles, by default of base 10000."""
    return Position(frequencies=host_frequencies)


def host_frequencies(theta: Tensor, train_length: int) -> tuple[Tensor, float]:
    """The angles as they are."""
    return theta, 1.0


def memory(config: DecoderConfig) -> Memory:
    """A key-value cache that grows with every token."""
    return Memory(grow_cache)


def grow_cache(k: Tensor, v: Tensor, past: KVCache | None, here: Here) -> Seen:
    """Append the segment's keys and values [B, T, H, D] to those of the past."""
    positions, visible = here.positions, here.visible
    if past is not None:
        positions = _joined(past.positions, positions)
        if visible is not None or past.visible is not None:
            visible = torch.cat([_or_all(past.visible, past.k), _or_all(visible, k)], 1)
        k, v = torch.cat([past.k, k], 1), torch.cat([past.v, v], 1)
    shown = None if visible is None else visible[:, None]
    return Seen(k, v, KVCache(k, v, positions, visible), positions, shown)


def _joined(past: Tensor, new: Tensor) -> Tensor:
    """[S] and [T], or by row where either is, one after the other."""
    rows = max(past.shape[0] if past.ndim == 2 else 1, new.shape[0] if new.ndim == 2 else 1)
    if past.ndim != new.ndim:
        past, new = (x.expand(rows, -1) for x in (past, new))
    return torch.cat([past, new], -1)


def _or_all(visible: Tensor | None, k: Tensor) -> Tensor:
    return torch.ones(k.shape[:2], dtype=torch.bool, device=k.device) if visible is None else visible


def keep(seen: Seen, kept: Tensor) -> Seen:
    """`seen` with a past of the keys alone where bool `kept` [S] is true; [B, S] keeps what any row needs."""
    cache: KVCache = seen.past
    kept = kept.any(0) if kept.ndim == 2 else kept
    visible = None if cache.visible is None else cache.visible[:, kept]
    return seen._replace(past=KVCache(cache.k[:, kept], cache.v[:, kept], cache.positions[..., kept], visible))


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
    """Cross-entropy of the next token, or of labels."""
    return next_token_loss


def next_token_loss(decoder: Any, tokens: Tensor, labels: Tensor | None = None) -> Tensor:
    """Mean cross-entropy in nats of tokens [B, T] from the second on, or of labels [B, T] where they are not -100.

    Where a decoder answers the last n tokens only, as one with a context does, it is that of the last n.
    """
    if labels is None:
        logits, _ = decoder(tokens[:, :-1])
        targets = tokens[:, tokens.shape[1] - logits.shape[1] :]
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    chosen = labels != NO_LABEL
    return functional.cross_entropy(decoder.logits_at(tokens, chosen).float(), labels[chosen])
