"""Checks of an operation's arguments: each error names the argument, what came and what is allowed.

Shapes are told by their symbols: B batch, T tokens, S keys, H heads, Hkv heads of k and v, D and E head sizes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from longatlas.errors import LongAtlasError

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_choice(name: str, given: object, allowed: Sequence[str]) -> None:
    """`given` is one of the allowed words."""
    if given not in allowed:
        raise LongAtlasError(f"{name} is {given!r}; it must be one of {', '.join(allowed)}")


def check_positive(**values: object) -> None:
    """Each is an integer, at least 1."""
    for name, value in values.items():
        if not isinstance(value, int) or value < 1:
            raise LongAtlasError(f"{name} is {value!r}; it must be an integer, at least 1")


def check_tensors(**arguments: object) -> None:
    """Each is a tensor."""
    for name, argument in arguments.items():
        if not isinstance(argument, Tensor):
            raise LongAtlasError(f"{name} is a {type(argument).__name__}; it must be a torch.Tensor")


def check_shape(name: str, tensor: Tensor, symbols: str, sizes: Sequence[int | None], when: str = "") -> None:
    """A tensor has the shape that `symbols` ("B T H D") name; `sizes` are what they stand for, None = any size.

    `when` says under which settings, for the error's text ("at position 9").
    """
    letters = symbols.split()
    if tensor.ndim == len(sizes) and all(a in (None, b) for a, b in zip(sizes, tensor.shape, strict=True)):
        return
    shown = [letter if size is None else str(size) for letter, size in zip(letters, sizes, strict=True)]
    wanted = f"[{', '.join(letters)}]" + (f" = [{', '.join(shown)}]" if shown != letters else "")
    raise LongAtlasError(f"{name} has shape {list(tensor.shape)}; {when and when + ' '}it must be {wanted}")


def check_qkv(q: Tensor, k: Tensor, v: Tensor, *, grouped: bool = False, keys: str = "T") -> None:
    """q [B, T, H, D], k [B, T, H, D] and v [B, T, H, E] are tensors that fit together.

    grouped  k and v may have fewer heads than q, Hkv, of which H is a multiple
    keys     another symbol than "T": there may be another number of keys than of queries
    """
    check_tensors(q=q, k=k, v=v)
    check_shape("q", q, "B T H D", (None, None, None, None))
    batch, length, heads, size = q.shape
    kv_heads = "Hkv" if grouped else "H"
    tokens, same = (length if keys == "T" else None), (None if grouped else heads)
    check_shape("k", k, f"B {keys} {kv_heads} D", (batch, tokens, same, size))
    check_shape("v", v, f"B {keys} {kv_heads} E", (*k.shape[:3], None))
    if grouped and (not k.shape[2] or heads % k.shape[2]):
        raise LongAtlasError(f"q has {heads} heads and k {k.shape[2]}; q's heads must be a multiple of k's and v's")


def check_floats(**tensors: Tensor) -> None:
    """Each is in a floating-point dtype that can be computed with."""
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATS:
            raise LongAtlasError(f"{name} has dtype {tensor.dtype}; it must be one of {', '.join(map(str, FLOATS))}")


def check_dtypes(**tensors: Tensor) -> None:
    """The first is in a floating-point dtype, and all others are in that of the first."""
    (first, like), *rest = tensors.items()
    check_floats(**{first: like})
    for name, tensor in rest:
        if tensor.dtype != like.dtype:
            raise LongAtlasError(f"{name} has dtype {tensor.dtype}; it must be {first}'s, {like.dtype}")


def check_state_dtype(name: str, state: Tensor, like: Tensor, *, wide: bool = True) -> None:
    """A state is in the dtype of the tokens `like`; `wide`: at least in fp32."""
    wanted = torch.promote_types(like.dtype, torch.float32) if wide else like.dtype
    if state.dtype != wanted:
        raise LongAtlasError(f"{name} has dtype {state.dtype}; with tokens in {like.dtype} it must be {wanted}")


def check_same_device(**tensors: Tensor) -> None:
    """All are on the device of the first."""
    (first, like), *rest = tensors.items()
    for name, tensor in rest:
        if tensor.device != like.device:
            raise LongAtlasError(f"{name} is on {tensor.device}, {first} on {like.device}; move them to one device")


def repeated(heads: int, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors [B, T, Hkv, D] with each head repeated until there are `heads`; as they are where there are so many."""
    return tuple(x if x.shape[2] == heads else x.repeat_interleave(heads // x.shape[2], 2) for x in tensors)
