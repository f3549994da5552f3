"""A method's operation alone: what it does to q, k and v, without projections, norms and a decoder around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from longatlas.cards import Method
from longatlas.combination import Combination, as_combination
from longatlas.decoder.builders import Builders
from longatlas.decoder.config import DecoderConfig
from longatlas.decoder.state import Clocked, here
from longatlas.errors import UnsupportedError
from longatlas.ops.arguments import check_qkv, check_shape
from longatlas.slots import names

SLOTS = ("position", "memory", "attention", "mixer")
PROJECTIONS = ("q", "k", "v", "out")


class Operation(nn.Module):
    """`mix(q, k, v, state=None) -> (o, state)`; its parameters are those that the operation itself has.

    inner   the SlotOperation, or the mixer with its projections taken out
    config  of the layer that it was built for
    """

    def __init__(self, inner: nn.Module, config: DecoderConfig) -> None:
        super().__init__()
        self.inner, self.config = inner, config
        self._mix: Callable[..., Any] = inner.mix  # type: ignore[assignment]
        self._takes_here = names(self._mix, "here")

    def mix(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        state: Clocked | None = None,
        *,
        positions: Tensor | None = None,
        visible: Tensor | None = None,
    ) -> tuple[Tensor, Clocked]:
        """One call on T tokens.

        q          [B, T, H, D], before rotation
        k, v       [B, T, Hkv, D], before rotation
        state      what the call before gave; None = the start of a sequence
        positions  [T], or [B, T] where rows stand at different ones; None = those that follow the tokens read
        visible    bool [B, T]: which tokens are text and not padding; None = all

        Returns o [B, T, H, D] and the state, a pytree. Raises UnsupportedError where positions or visible are given
        to a mixer that is not told of them, and LongAtlasError for shapes that do not fit.
        """
        _check(q, k, v, self.config)
        start, inner = state or Clocked()
        now = here(start, q, positions=positions, visible=visible)
        if self._takes_here:
            o, inner = self._mix(q, k, v, inner, now)
        elif positions is not None or visible is not None:
            raise UnsupportedError(
                f"{type(self.inner).__name__}.mix is not told where its tokens stand; read rows of one length, from "
                "position 0 on"
            )
        else:
            o, inner = self._mix(q, k, v, inner)
        return o, Clocked(start + q.shape[1], inner)

    forward = mix


def operation(
    method: Combination | Method | str, config: DecoderConfig, *, impl: str = "auto", layer: int | None = None
) -> Operation:
    """The operation of one layer of a method, or of a combination.

    method  a spec such as "yarn:factor=4+streaming_llm", a Method or a Combination
    config  of the decoder it is a layer of: heads, head_size, train_length, rope_base or rope_theta matter
    impl    which implementation the builders use
    layer   index of the layer; None = config.layer

    Raises UnsupportedError for a method without an operation: it fills none of position, memory, attention and mixer,
    or its mixer has no `mix`. LongAtlasError as Decoder.
    """
    combination = as_combination(method)
    combination.check_impl(impl)
    if not any(combination.fills(slot) for slot in SLOTS):
        filled = ", ".join(sorted({slot for part in combination.parts for slot in part.method.fills}))
        raise UnsupportedError(
            f"method '{combination.spec}' fills {filled}: it has no operation on q, k and v, which is what fills "
            f"{', '.join(SLOTS[:-1])} or {SLOTS[-1]}"
        )
    build = Builders(config, combination, impl)
    layer = config.layer if layer is None else layer
    if not combination.fills("mixer"):
        return Operation(build.operation(layer), build.at(layer))
    return Operation(_bare(build.mixer(layer)), build.at(layer))


def _bare(mixer: nn.Module) -> nn.Module:
    """A mixer whose projections, which lie around its operation, are gone."""
    if not callable(getattr(mixer, "mix", None)):
        raise UnsupportedError(
            f"its mixer {type(mixer).__name__} has no mix(q, k, v, state), the operation on q, k and v: give it one, "
            "or use the method in a decoder"
        )
    for name in PROJECTIONS:
        if isinstance(getattr(mixer, name, None), nn.Module):
            setattr(mixer, name, nn.Identity())
    return mixer


def _check(q: Tensor, k: Tensor, v: Tensor, config: DecoderConfig) -> None:
    check_qkv(q, k, v, grouped=True)
    check_shape("q", q, "B T H D", (None, None, config.n_heads, config.head_size))
    check_shape("k", k, "B T Hkv D", (None, None, config.kv_heads, config.head_size))
