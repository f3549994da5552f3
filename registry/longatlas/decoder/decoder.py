"""The decoder with its slots: `decoder(tokens, state) -> (logits, state)`, the same for every method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from longatlas import losses
from longatlas.cards import Method
from longatlas.combination import Combination, as_combination
from longatlas.decoder.builders import Builders
from longatlas.decoder.config import DecoderConfig
from longatlas.decoder.prompts import answer, make_prompt
from longatlas.decoder.slot_mixer import adopt
from longatlas.decoder.stack import Stack
from longatlas.decoder.state import DecoderState
from longatlas.decoder.teacher import check_teacher, takes_teacher
from longatlas.errors import UnsupportedError
from longatlas.slots import OBJECTIVE, Prompt, as_context, check_takes, names


class Decoder(nn.Module):
    """A decoder-only Transformer with a method, or a combination of methods, in its slots.

    config  its shape
    method  a spec such as "yarn+sliding_window:window=256", a Method or a Combination
    impl    which implementation the builders use: "auto", one of the method's `impls`, or "peer:name" of its `peers`

    `decoder(tokens [B, T], state=None) -> (logits [B, T, V], state)`. Prefill is one long call, decode is calls
    of one token, a stream is calls of segments; training passes no state. A method that fills `context` answers
    a call without a state with the logits [B, n, V] of the last n tokens: of the last one alone, or of those that it
    scores (see longatlas.Context).

    Raises LongAtlasError for an unknown method, option or impl, and for slots that clash.
    """

    def __init__(
        self, config: DecoderConfig, method: Combination | Method | str = "vanilla", *, impl: str = "auto"
    ) -> None:
        super().__init__()
        self.config = config
        self.combination = as_combination(method)
        self.combination.check_impl(impl)
        self.impl = impl
        build = Builders(config, self.combination, impl)
        stack = Stack(build)
        self.core: Any = build("model")(stack) if self.combination.fills("model") else stack
        self.context = as_context(build("context")) if self.combination.fills("context") else None
        if self.context is not None:
            adopt(self, "context", (self.context.split, self.context.merge))
        self._draw = stack.draw
        self._objective: Any = build("objective")
        check_takes(self._objective, 3, "an objective", f"{OBJECTIVE}: labels [B, T] say what is scored, None = all")
        check_teacher(self.combination, self._objective)
        self._teacher: tuple[nn.Module, ...] = ()  # a tuple, so that it is no part of this module

    def forward(self, tokens: Tensor, state: DecoderState | None = None, **how: Any) -> tuple[Tensor, DecoderState]:
        """One call.

        how  positions [T] or [B, T], visible bool [B, T] for a padded batch, places: see longatlas.decoder.state.here

        Raises UnsupportedError where they are given to a `model` method that does not take them, or to a `context`, and
        LongAtlasError where a context's split or merge returns what it may not.
        """
        given = self._checked(how)
        if self.context is None or state is not None:
            out: tuple[Tensor, DecoderState] = self.core(tokens, state, **given)
            return out
        if given:
            raise UnsupportedError(
                f"'{self.combination.spec}' cuts a prompt itself and is not told of {', '.join(sorted(given))}; read "
                "rows of one length, without drawn places"
            )
        return answer(self, tokens)

    def prompt(self, tokens: Tensor) -> Prompt:
        """What the `context` makes of tokens [B, T]: the windows and the tail that a call without a state reads.

        Raises UnsupportedError where no method fills `context`, and LongAtlasError where split returns no Prompt for
        these tokens.
        """
        if self.context is None:
            raise UnsupportedError(f"'{self.combination.spec}' fills no context: it reads its tokens as they are")
        return make_prompt(self, tokens)

    def hidden(self, tokens: Tensor, state: DecoderState | None = None, **how: Any) -> tuple[Tensor, DecoderState]:
        """What the head reads, [B, T, d_model], and the state; a `context` is passed by.

        Raises UnsupportedError where a `model` method hides it.
        """
        self._require("hidden")
        out: tuple[Tensor, DecoderState] = self.core.hidden(tokens, state, **self._checked(how))
        return out

    def head(self, x: Tensor) -> Tensor:
        """Logits of hidden states x [..., d_model]. Raises UnsupportedError where a `model` method hides the head."""
        self._require("head")
        logits: Tensor = self.core.head(x)
        return logits

    def logits_at(self, tokens: Tensor, chosen: Tensor, **how: Any) -> Tensor:
        """Logits [n, V] at the n places of tokens [B, T] where bool chosen [B, T] is true.

        Those places alone are projected onto the vocabulary, where a `model` method offers `hidden` and `head`. A
        `context` is asked once, and raises UnsupportedError for places before those that it answers.
        """
        if self.context is not None:
            return self._answers_at(tokens, chosen, how)
        how = self._checked(how)
        if hasattr(self.core, "hidden") and hasattr(self.core, "head"):
            x, _ = self.core.hidden(tokens, None, **how)
            logits: Tensor = self.core.head(x[chosen])
            return logits
        every, _ = self.core(tokens, None, **how)
        logits = every[chosen]
        return logits

    def _answers_at(self, tokens: Tensor, chosen: Tensor, how: dict[str, Any]) -> Tensor:
        logits, _ = self(tokens, None, **how)
        before = tokens.shape[1] - logits.shape[1]
        if bool(chosen[:, :before].any()):
            raise UnsupportedError(
                f"'{self.combination.spec}' answers the last {logits.shape[1]} of {tokens.shape[1]} tokens, and token "
                f"{int(chosen.any(0).int().argmax())} is asked for; ask for those alone, or let its tail hold more"
            )
        out: Tensor = logits[chosen[:, before:]]
        return out

    def loss(
        self,
        tokens: Tensor,
        labels: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        through: Callable[[Any], Any] = lambda decoder: decoder,
    ) -> Tensor:
        """The training loss, a scalar: the objective's, and what modules added by longatlas.losses.add.

        tokens     [B, T]
        labels     [B, T]: what is asked for at each place, -100 = nothing; None = every next token
        generator  that a Position.draw takes its places from; None = torch's own
        through    makes what the objective is given of the decoder, where something stands between the two

        Through a `context` that trains, the loss is that of the tokens that it scores. Raises UnsupportedError for one
        that does not train, for labels before those tokens, and where the objective learns from a teacher and has none.
        """
        self.check_trains()
        subject = through(self if self._draw is None else WithPlaces(self, generator))
        with losses.collect() as added:
            loss: Tensor = self._objective(subject, tokens, labels, **self._taught())
        return loss + sum(added.values()) if added else loss

    def check_trains(self) -> None:
        """Raise UnsupportedError where a `context` does not train."""
        if self.context is not None and not self.context.trains:
            raise UnsupportedError(
                f"'{self.combination.spec}' puts its context around a trained decoder; it is not trained itself, which "
                "would take a Context(trains=True)"
            )

    def learn_from(self, teacher: nn.Module) -> None:
        """Give the objective a teacher (longatlas.Teacher), a decoder, or a task's module around one.

        It is frozen, and neither saved nor moved with this one.
        """
        self._teacher = (teacher.eval().requires_grad_(False),)

    def _taught(self) -> dict[str, nn.Module]:
        if not takes_teacher(self._objective):
            return {}
        if not self._teacher:
            raise UnsupportedError(f"'{self.combination.spec}' learns from a teacher; call decoder.learn_from(teacher)")
        return {"teacher": self._teacher[0]}

    def draw_places(self, length: int, generator: torch.Generator | None = None) -> Tensor:
        """Places [T] or [B, T] of `length` tokens in training, by the position slot's `draw`."""
        assert self._draw is not None
        return self._draw(length, generator).to(next(self.parameters()).device)

    def _checked(self, how: dict[str, Any]) -> dict[str, Any]:
        """The arguments that are given, where the core takes them."""
        given = {name: value for name, value in how.items() if value is not None}
        if given and not isinstance(self.core, Stack) and not all(names(self.core.forward, name) for name in given):
            raise UnsupportedError(
                f"'{self.combination.spec}' wraps the decoder and is not told of {', '.join(sorted(given))}; read "
                "rows of one length, without drawn places"
            )
        return given

    def _require(self, part: str) -> None:
        if not hasattr(self.core, part):
            raise UnsupportedError(
                f"'{self.combination.spec}' wraps the decoder and offers no `{part}`; its wrapper must hand it on"
            )


class WithPlaces:
    """A decoder as its objective sees it in training: each call draws where its tokens stand (Position.draw).

    Everything else is the decoder's own.
    """

    def __init__(self, decoder: Decoder, generator: torch.Generator | None) -> None:
        self._decoder, self._generator = decoder, generator

    def __call__(self, tokens: Tensor, state: DecoderState | None = None) -> tuple[Tensor, DecoderState]:
        out: tuple[Tensor, DecoderState] = self._decoder(tokens, state, places=self._places(tokens))
        return out

    def hidden(self, tokens: Tensor, state: DecoderState | None = None) -> tuple[Tensor, DecoderState]:
        return self._decoder.hidden(tokens, state, places=self._places(tokens))

    def logits_at(self, tokens: Tensor, chosen: Tensor) -> Tensor:
        return self._decoder.logits_at(tokens, chosen, places=self._places(tokens))

    def _places(self, tokens: Tensor) -> Tensor:
        return self._decoder.draw_places(tokens.shape[1], self._generator)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)
