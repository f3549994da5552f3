"""The slots of the decoder, and what a builder returns for each.

    tokens > [context] > embed > N x block( norm > qkv > [position] > [memory] > [attention] > out
                                            > norm > [ffn] ) > head > [objective]
    [mixer] replaces qkv to out; [model] wraps the whole decoder.

A builder is called as `builder(config, **options)` with the layer's DecoderConfig and returns one of the
objects below. Tensors are [B, T, H, D] throughout; k and v have H heads, or fewer when heads are grouped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from longatlas.errors import LongAtlasError

if TYPE_CHECKING:
    from torch import Tensor, nn

SLOTS = {
    "position": "how a token's place enters: embed(x, pos), rotate(q, k, pos) or score_mod",
    "memory": "what the present segment may attend to, and what is kept",
    "attention": "stateless f(q, k, v, where) -> o, or just a mask_mod",
    "mixer": "a module (x, state) -> (y, state) in place of position, memory and attention",
    "ffn": "a module x -> y",
    "model": "decoder -> decoder",
    "context": "works before and after the decoder: tokens in, segments out; states in, one state out",
    "objective": "loss(decoder, tokens)",
}

MIXER_REPLACES = ("position", "memory", "attention")

ScoreMod = Callable[..., Any]
"""FlexAttention's score_mod(score, b, h, q_idx, kv_idx) -> score; indices are token positions."""

MaskMod = Callable[..., Any]
"""FlexAttention's mask_mod(b, h, q_idx, kv_idx) -> bool; indices are token positions."""

Rotate = Callable[..., Any]
"""rotate(q [B, T, H, D], k [B, T, H, D], pos [T]) -> (q, k)."""


@dataclass(frozen=True)
class Position:
    """The `position` slot: any of the three; what is None is not done.

    embed      embed(x [B, T, d_model], pos [T]) -> x, once, on the embeddings
    rotate     rotate(q, k, pos [T]) -> (q, k), in every layer
    score_mod  score_mod(score, b, h, q_idx, kv_idx) -> score, on q·k * scale, before the softmax
    """

    embed: Callable[..., Any] | None = None
    rotate: Rotate | None = None
    score_mod: ScoreMod | None = None


class Seen(NamedTuple):
    """What a memory's `extend` returns; the first three are enough.

    k, v       [B, S, H, D]: what the present segment may attend to; its own T tokens stand last
    past       what is kept for the next call: a pytree of tensors
    positions  [S]: the place of each key; None = the S places that end with the present token
    """

    k: Tensor
    v: Tensor
    past: Any
    positions: Tensor | None = None


@dataclass(frozen=True)
class Memory:
    """The `memory` slot: `extend(k, v, past) -> (k, v, past)`, or a Seen with positions; past is None at first.

    raw_keys  False: extend gets rotated keys. True: it gets keys before rotation, and what it returns is
              rotated by place in the cache (0 ... S-1, or the positions it gives), queries likewise.
    """

    extend: Callable[..., Any]
    raw_keys: bool = False


class Where(NamedTuple):
    """What an attention function is told beside q, k and v.

    q_positions  [T] places of the queries
    k_positions  [S] places of the keys; a query may see a key when k_position <= q_position
    rotate       the position slot's rotate when the attention asked for raw q and k, else None
    score_mod    the position slot's score_mod, or None
    """

    q_positions: Tensor
    k_positions: Tensor
    rotate: Rotate | None = None
    score_mod: ScoreMod | None = None


@dataclass(frozen=True)
class Attention:
    """The `attention` slot: either `forward(q, k, v, where) -> o` or `mask_mod(b, h, q_idx, kv_idx) -> bool`.

    q [B, T, H, D]; k [B, S, H, D]; v [B, S, H, E]; o [B, T, H, E]. A mask_mod is run by
    longatlas.ops.blockwise_attention, which skips the blocks it hides; causality is added to it.
    raw  True: forward wants q and k before rotation, and rotates them itself with where.rotate.
    """

    forward: Callable[..., Any] | None = None
    mask_mod: MaskMod | None = None
    raw: bool = False

    def __post_init__(self) -> None:
        if (self.forward is None) == (self.mask_mod is None):
            raise LongAtlasError("Attention takes forward or mask_mod, exactly one of the two")


class Prompt(NamedTuple):
    """What a context's `split` returns.

    windows  token tensors [B, W_i], each read from an empty state, independently of the others
    tail     [B, Tq]: read last, from the state that `merge` makes of the windows' states
    """

    windows: Sequence[Tensor]
    tail: Tensor


@dataclass(frozen=True)
class Context:
    """The `context` slot: how a long input is put before a decoder that reads less.

    split  split(tokens [B, T]) -> Prompt. A call without a state goes through it; logits then are those of the
           last token alone, [B, 1, V]. Calls with a state go straight to the decoder.
    merge  merge(states) -> state: the windows' states into the one that the tail continues from. Not needed
           when split makes no windows.
    """

    split: Callable[[Tensor], Prompt]
    merge: Callable[[Sequence[Any]], Any] | None = None


class Mixer(Protocol):
    """The `mixer` slot: a torch.nn.Module; state is None at the start of a sequence.

    By convention the module calls its projections `q`, `k`, `v` and `out`, and gives parameters and buffers
    that differ by head H as their first dimension, so that the conformance check can permute heads.

    A mixer may also offer its operation, `mix(q, k, v, state) -> (o, state)` with q, o [B, T, H, D] and k, v
    [B, T, Hkv, D] before rotation; the level operation measures it. Rotation and feature maps belong inside;
    projections, their activations, norms and gates made from x belong to the forward that calls it.
    The state is the mixer's own, or, where a mixer keeps its inputs, one of keys and values.
    """

    def __call__(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """x, y [B, T, d_model]; the state is a pytree of tensors, and never changed in place."""


def as_position(built: Any) -> Position:
    """Accept a Position, or any object that has some of `embed`, `rotate`, `score_mod`."""
    if isinstance(built, Position):
        return built
    parts = {name: getattr(built, name, None) for name in ("embed", "rotate", "score_mod")}
    if not any(parts.values()):
        raise LongAtlasError(
            f"a position builder returned {built!r}; it must have one of embed, rotate, score_mod "
            "(return longatlas.Position(rotate=...))"
        )
    return Position(**parts)


def as_memory(built: Any) -> Memory:
    """Accept a Memory, or any object that has `extend`."""
    if isinstance(built, Memory):
        return built
    if not callable(getattr(built, "extend", None)):
        raise LongAtlasError(
            f"a memory builder returned {built!r}; it must have extend(k, v, past) (return longatlas.Memory(...))"
        )
    return Memory(built.extend, raw_keys=bool(getattr(built, "raw_keys", False)))


def as_attention(built: Any) -> Attention:
    """Accept an Attention, a function (q, k, v, where), or a bare mask_mod (b, h, q_idx, kv_idx)."""
    if isinstance(built, Attention):
        return built
    if not callable(built):
        raise LongAtlasError(
            f"an attention builder returned {built!r}; return longatlas.Attention(...), f(q, k, v, where) "
            "or a mask_mod(b, h, q_idx, kv_idx)"
        )
    import inspect

    names = list(inspect.signature(built).parameters)
    if names[:1] == ["q"]:
        return Attention(forward=built)
    return Attention(mask_mod=built)


def as_context(built: Any) -> Context:
    """Accept a Context, or any object that has `split` (and `merge`)."""
    if isinstance(built, Context):
        return built
    if not callable(getattr(built, "split", None)):
        raise LongAtlasError(
            f"a context builder returned {built!r}; it must have split(tokens) (return longatlas.Context(...))"
        )
    return Context(built.split, getattr(built, "merge", None))


def as_module(slot: str, built: Any) -> nn.Module:
    """Accept an nn.Module for the slots `mixer` and `ffn`."""
    from torch import nn

    if not isinstance(built, nn.Module):
        raise LongAtlasError(f"a {slot} builder returned {built!r}; it must return a torch.nn.Module")
    return built
