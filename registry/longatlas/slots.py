"""The slots of the decoder, and what a builder returns for each.

    tokens > [context] > embed > N x block( norm > qkv > [position] > [memory] > [attention] > out
                                            > norm > [ffn] ) > head > [objective]
    [mixer] replaces qkv to out; [model] wraps the whole decoder.

A builder is called as `builder(config, **options)` with the layer's DecoderConfig and returns one of the
objects below. Tensors are [B, T, H, D] throughout; k and v have H heads, or fewer when heads are grouped.

A decoder has one clock, the number of tokens it has read. It tells every memory, and every mixer that asks for it,
where the present call stands: `Here`.

A module in any slot, such as a mixer or an ffn, may add losses of its own in training (longatlas.losses.add), and may
offer `after_step()`: it is called after each step of the optimiser, without gradients, to clamp a span or move a mean.
"""

from __future__ import annotations

import inspect
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
    "context": "stands before the decoder: tokens into windows and a tail, the windows' states into one state",
    "objective": "loss(decoder, tokens, labels=None)",
}

MIXER_REPLACES = ("position", "memory", "attention")

ScoreMod = Callable[..., Any]
"""FlexAttention's score_mod(score, b, h, q_idx, kv_idx) -> score; indices are token positions."""

MaskMod = Callable[..., Any]
"""FlexAttention's mask_mod(b, h, q_idx, kv_idx) -> bool; indices are token positions."""

Rotate = Callable[..., Any]
"""rotate(q [B, T, H, D], k [B, T, H, D], pos [T] or [B, T]) -> (q, k)."""

Frequencies = Callable[..., Any]
"""frequencies(theta [D/2] fp64, train_length) -> (theta' [D/2], magnitude): rotary angles per token and a factor."""


@dataclass(frozen=True)
class Position:
    """The `position` slot: what is None is not done.

    embed        embed(x [B, T, d_model], pos) -> x, once, on the embeddings
    rotate       rotate(q, k, pos) -> (q, k), in every layer
    frequencies  frequencies(theta [D/2] fp64, train_length) -> (theta', magnitude): rotary embedding whose angles per
                 token become theta', and q and k a factor longer, in place of `rotate`; theta is the host's
    score_mod    score_mod(score, b, h, q_idx, kv_idx) -> score, on q·k * scale, before the softmax
    draw         draw(length, generator) -> places [T] or [B, T] of whole numbers: where tokens stand in training. What
                 embed, rotate and score_mod are given are these places; masks go on counting tokens. Inference never
                 draws

    pos is [T], or [B, T] where the rows of a batch stand at different positions.
    """

    embed: Callable[..., Any] | None = None
    rotate: Rotate | None = None
    score_mod: ScoreMod | None = None
    frequencies: Frequencies | None = None
    draw: Callable[..., Tensor] | None = None

    def __post_init__(self) -> None:
        if self.rotate is not None and self.frequencies is not None:
            raise LongAtlasError("Position has rotate and frequencies, which rotate both; give one of the two")


class Here(NamedTuple):
    """Where a call stands, by the decoder's one clock.

    start      tokens read before this call
    positions  [T], or [B, T] in a padded batch: the position of each present token, by which masks and memories go
    places     drawn in training (Position.draw), of the same shape or [B, T], from position 0 on; None = the positions
    visible    bool [B, T]: which present tokens are text and not padding; None = all
    q          [B, T, H, D]: the queries beside the keys that a memory is given, rotated where these are; None elsewhere
    """

    start: int
    positions: Tensor
    places: Tensor | None = None
    visible: Tensor | None = None
    q: Tensor | None = None

    @property
    def length(self) -> int:
        """T"""
        return self.positions.shape[-1]

    @property
    def end(self) -> Any:
        """One more than the last position: a number, or [B, 1] in a padded batch."""
        return self.start + self.length if self.positions.ndim == 1 else self.positions[:, -1:] + 1

    def rotation(self, rotate: Rotate | None) -> Rotate | None:
        """`rotate` as a function of positions: with drawn places it turns by the place of each position."""
        if rotate is None or self.places is None:
            return rotate
        return lambda q, k, pos: rotate(q, k, self._places[..., pos])

    def scoring(self, score_mod: ScoreMod | None) -> ScoreMod | None:
        """`score_mod` as a function of positions: with drawn places it is given the place of each position."""
        if score_mod is None or self.places is None:
            return score_mod

        def scored(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
            rows = (b,) if self._places.ndim == 2 else ()
            return score_mod(score, b, h, self._places[(*rows, q_idx)], self._places[(*rows, kv_idx)])

        scored.additive = getattr(score_mod, "additive", False)  # type: ignore[attr-defined]
        return scored

    @property
    def _places(self) -> Tensor:
        assert self.places is not None
        return self.places


class Seen(NamedTuple):
    """What a memory's `extend` returns; the first three are enough.

    k, v       [B, S, H, D]: what the present segment may attend to; its own T tokens stand last
    past       what is kept for the next call: a pytree of tensors
    positions  [S] or [B, S]: the position of each key; None = the S positions that end with the present token
    visible    bool [B or 1, H or 1, S]: which keys there are for a text and a head, H as of q; others were dropped,
               have expired or are padding. None = all
    """

    k: Tensor
    v: Tensor
    past: Any
    positions: Tensor | None = None
    visible: Tensor | None = None


@dataclass(frozen=True)
class Memory:
    """The `memory` slot: `extend(k, v, past, here) -> (k, v, past)`, or a Seen; past is None at first.

    here tells the positions of the present tokens and holds the queries that ask (see Here).

    raw_keys  False: extend gets rotated keys. True: it gets keys before rotation, and what it returns is
              rotated by place in the cache (0 ... S-1, or the positions it gives), queries likewise.
    """

    extend: Callable[..., Any]
    raw_keys: bool = False


class Where(NamedTuple):
    """What an attention function is told beside q, k and v.

    q_positions  [T] or [B, T]: positions of the queries
    k_positions  [S] or [B, S]: positions of the keys; a query may see a key when k_position <= q_position
    rotate       the position slot's rotate when the attention asked for raw q and k, else None
    score_mod    the position slot's score_mod, or None
    visible      bool [B or 1, H or 1, S]: keys that a query may see at all, beside causality; None = all
    """

    q_positions: Tensor
    k_positions: Tensor
    rotate: Rotate | None = None
    score_mod: ScoreMod | None = None
    visible: Tensor | None = None

    @property
    def differs_by_row(self) -> bool:
        """Whether more than one list of positions is needed to say which key a query may see."""
        return self.visible is not None or self.q_positions.ndim > 1 or self.k_positions.ndim > 1


@dataclass(frozen=True)
class Attention:
    """The `attention` slot: either `forward(q, k, v, where) -> o` or `mask_mod(b, h, q_idx, kv_idx) -> bool`.

    q [B, T, H, D]; k [B, S, H, D]; v [B, S, H, E]; o [B, T, H, E]. A mask_mod is run by
    longatlas.ops.blockwise_attention, which skips the blocks it hides; causality is added to it. A mask_mod may promise
    by an attribute `constant = True` that it always hides the same (its layout is then remembered, whatever it holds),
    and by `per_head = True` that heads differ by index.
    raw     True: forward wants q and k before rotation, and rotates them itself with where.rotate.
    by_row  True: forward goes by where.visible and by positions that differ by row; else it is never given such
    """

    forward: Callable[..., Any] | None = None
    mask_mod: MaskMod | None = None
    raw: bool = False
    by_row: bool = False

    def __post_init__(self) -> None:
        if (self.forward is None) == (self.mask_mod is None):
            raise LongAtlasError("Attention takes forward or mask_mod, exactly one of the two")


class Prompt(NamedTuple):
    """What a context's `split` makes of tokens [B, T].

    windows  token tensors [B, W_i], W_i >= 1, each read from an empty state, independently of the others. Windows of
             one length may be folded into one tensor [n B, W] and are then read in one call, whose state has n B rows
    tail     [B, Tq], Tq >= 1: read last, from the state that `merge` makes of the windows' states
    scored   how many last tokens of the tail are the input's last ones, in their order; None = all of them.
             The logits at these are the answers of a context that scores its tail (see Context)
    handed   whatever else merge wants to know, such as which part of each window it is to keep
    """

    windows: Sequence[Tensor]
    tail: Tensor
    scored: int | None = None
    handed: Any = None


@dataclass(frozen=True)
class Context:
    """The `context` slot: how a long input is put before a decoder that reads less.

    A call without a state goes through it: split > windows > merge > tail. Calls with a state go straight to the
    decoder.

    split   split(tokens [B, T]) -> Prompt, or split(tokens, read) where it runs the decoder itself to choose or to
            write what is read: see longatlas.Read
    merge   merge(states) -> state: the windows' states, in their order, into the one that the tail continues from; or
            merge(states, prompt) where it needs what split returned. The state may be of any type that the decoder
            takes: a method that fills `model` too may have one of its own. Not needed when split makes no windows
    scores  what a call without a state answers. "last": the logits of the last token alone, [B, 1, V]. "tail": those of
            all the scored tokens of the tail [B, scored, V], each of which then depends on no later token, neither
            through the windows nor through what split chooses
    trains  the decoder is trained through windows, merge and tail, and its loss is that of the scored tokens: it then
            scores "tail", and an objective is given the logits of these alone. Otherwise a context is put around a
            trained decoder. Functions of a torch.nn.Module, given as split or merge, have its parameters trained with
            the decoder's; one that differs by head has H first

    What merge meets: a cached key was rotated by its position in its own window (0 ... W_i - 1), unless the memory has
    raw_keys, and merge cannot turn it any more. In joined caches a position so occurs once for each window, and the
    tail goes on from the position of the state that merge returns: of windows of unequal lengths the shorter end
    farther from the tail than they stood. Make windows of one length, and put what is left over into the tail.
    """

    split: Callable[..., Prompt]
    merge: Callable[..., Any] | None = None
    scores: str = "last"
    trains: bool = False

    def __post_init__(self) -> None:
        check_takes(self.split, 1 + self.reads, "a context's split", SPLIT)
        if self.merge is not None:
            check_takes(self.merge, 1 + names(self.merge, "prompt"), "a context's merge", MERGE)
        if self.scores not in SCORES:
            raise LongAtlasError(f"a context has scores={self.scores!r}; it must be one of {', '.join(SCORES)}")
        if self.trains:
            object.__setattr__(self, "scores", "tail")

    @property
    def reads(self) -> bool:
        """Whether split runs the decoder."""
        return names(self.split, "read")

    def answered(self, prompt: Prompt) -> int:
        """How many of the input's last tokens a prompt answers."""
        if self.scores == "last":
            return 1
        return prompt.tail.shape[1] if prompt.scored is None else prompt.scored


class Mixer(Protocol):
    """The `mixer` slot: a torch.nn.Module; state is None at the start of a sequence.

    A mixer whose forward names a third parameter `here` is told where the call stands (see Here); its state then needs
    no clock. A builder that names `rotate` is given the rotation of the position slot (None where that has none), and
    is combined with methods of that slot.

    By convention the module calls its projections `q`, `k`, `v` and `out`, and gives parameters and buffers
    that differ by head H as their first dimension, so that the conformance check can permute heads.

    A mixer may also offer its operation, `mix(q, k, v, state) -> (o, state)`, or with `here`, with q, o [B, T, H, D]
    and k, v [B, T, Hkv, D] before rotation; longatlas.operation opens it to all. Rotation and feature maps belong
    inside; projections, their activations, norms and gates made from x belong to the forward that calls it.
    The state is the mixer's own, or, where a mixer keeps its inputs, one of keys and values.
    """

    def __call__(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """x, y [B, T, d_model]; the state is a pytree of tensors, and never changed in place."""


def names(function: Callable[..., Any], parameter: str) -> bool:
    """Whether a function names a parameter."""
    try:
        return parameter in inspect.signature(function).parameters
    except (TypeError, ValueError):  # some callables of C tell nothing
        return False


def check_takes(function: Callable[..., Any], count: int, what: str, form: str) -> None:
    """Raise LongAtlasError unless `function` can be called with `count` arguments; `form` is how it is written."""
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        raise LongAtlasError(f"{what} takes other arguments than it is given; it must be {form}") from None
    except ValueError:
        return


POSITION_PARTS = ("embed", "rotate", "score_mod", "frequencies", "draw")


def as_position(built: Any) -> Position:
    """Accept a Position, or any object that has some of its functions."""
    if isinstance(built, Position):
        return built
    parts = {name: getattr(built, name, None) for name in POSITION_PARTS}
    if not any(parts.values()):
        raise LongAtlasError(
            f"a position builder returned {built!r}; it must have one of {', '.join(POSITION_PARTS)} "
            "(return longatlas.Position(rotate=...))"
        )
    return Position(**parts)


CONTEXT_PARTS = ("split", "merge", "scores", "trains")
SCORES = ("last", "tail")
SPLIT = "split(tokens) or split(tokens, read)"
MERGE = "merge(states) or merge(states, prompt)"
EXTEND = "extend(k, v, past, here)"
OBJECTIVE = "objective(decoder, tokens, labels=None)"


def as_memory(built: Any) -> Memory:
    """Accept a Memory, or any object that has `extend`."""
    if not callable(getattr(built, "extend", None)):
        raise LongAtlasError(
            f"a memory builder returned {built!r}; it must have {EXTEND} (return longatlas.Memory(...))"
        )
    check_takes(built.extend, 4, "a memory's extend", f"{EXTEND}: `here` tells positions and queries (longatlas.Here)")
    if isinstance(built, Memory):
        return built
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
    if list(inspect.signature(built).parameters)[:1] == ["q"]:
        return Attention(forward=built)
    return Attention(mask_mod=built)


def as_context(built: Any) -> Context:
    """Accept a Context, or any object that has `split` (and `merge`, `scores`, `trains`)."""
    if isinstance(built, Context):
        return built
    if not callable(getattr(built, "split", None)):
        raise LongAtlasError(
            f"a context builder returned {built!r}; it must have {SPLIT} (return longatlas.Context(...))"
        )
    return Context(**{name: getattr(built, name) for name in CONTEXT_PARTS if hasattr(built, name)})


def as_module(slot: str, built: Any) -> nn.Module:
    """Accept an nn.Module for the slots `mixer` and `ffn`."""
    from torch import nn

    if not isinstance(built, nn.Module):
        raise LongAtlasError(f"a {slot} builder returned {built!r}; it must return a torch.nn.Module")
    return built
