"""Cuts a call at segment borders, and gives each piece its keys (arXiv:1901.02860, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor


class Piece(NamedTuple):
    """Queries of one segment, as columns of the entries: memory [low, start), segment [start, end), queries
    [queries, end)."""

    low: int
    start: int
    queries: int
    end: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.end - self.low, self.end - self.queries


def cut(position: int, end: int, columns: int, segment_len: int, mem_len: int) -> Iterator[Piece]:
    """Cut tokens [position, end) at multiples of segment_len; the last of the entries is token end - 1."""
    first = end - columns
    while position < end:
        start = position - position % segment_len
        stop = min(end, start + segment_len)
        low = max(first, start - mem_len)
        yield Piece(low - first, start - first, position - first, stop - first)
        position = stop


def groups(pieces: list[Piece], most: int) -> Iterator[list[Piece]]:
    """Runs of at most `most` pieces of one shape."""
    group: list[Piece] = []
    for piece in pieces:
        if group and (len(group) == most or group[-1].shape != piece.shape):
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


def with_frozen_memory(entries: Tensor, piece: Piece) -> Tensor:
    """The piece's entries [B, K, width], cut from the graph where they are memory: SG(h) ∘ h."""
    if not (torch.is_grad_enabled() and entries.requires_grad):
        return entries[:, piece.low : piece.end]
    memory, segment = entries[:, piece.low : piece.start], entries[:, piece.start : piece.end]
    return torch.cat([memory.detach(), segment], 1)


def project_each(project: Callable[[Tensor], Tensor], entries: Tensor) -> Callable[[Piece], Tensor]:
    """The paper's way: every segment projects its memory anew."""
    return lambda piece: project(with_frozen_memory(entries, piece))


def project_once(
    project: Callable[[Tensor], Tensor], entries: Tensor, pieces: list[Piece]
) -> Callable[[Piece], Tensor]:
    """The same with one projection for all segments (two when gradients pass to the entries)."""
    if torch.is_grad_enabled() and entries.requires_grad:
        memory, segment = pieces[-1].start, pieces[0].start
        frozen = _split(project(entries[:, :memory].detach()), pieces, 0)
        live = _split(project(entries[:, segment:]), pieces, segment)
    else:
        projected = project(entries)
        if not projected.requires_grad:
            return lambda piece: projected[:, piece.low : piece.end]
        frozen = live = _split(projected, pieces, 0)
    return lambda piece: torch.cat(_between(frozen, piece.low, piece.start) + _between(live, piece.start, piece.end), 1)


def _split(x: Tensor, pieces: list[Piece], first: int) -> dict[int, Tensor]:
    """Cut x, whose first column is `first`, wherever a piece begins or ends: first column -> part.

    Slices would each give a gradient as long as x; the backward pass of one split joins them once.
    """
    last = first + x.shape[1]
    cuts = {first, last} | {column for piece in pieces for column in (piece.low, piece.start, piece.end)}
    inside = sorted(column for column in cuts if first <= column <= last)
    parts = x.split([after - before for before, after in pairwise(inside)], 1)
    return dict(zip(inside, parts, strict=False))


def _between(parts: dict[int, Tensor], low: int, high: int) -> list[Tensor]:
    found = []
    while low < high:
        found.append(parts[low])
        low += parts[low].shape[1]
    return found
