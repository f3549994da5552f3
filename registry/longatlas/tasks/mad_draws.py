"""Draws of the six MAD skills (arXiv:2403.17844, section 3.1), each `(settings, batch, generator) -> tokens, labels`.

Tokens and labels are [batch, T]; a label stands where its answer is given, -100 = no label. Sequences follow the
authors' description; unlike theirs they are drawn anew for every step, and no training set is ever repeated.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor

from longatlas.losses import NO_LABEL
from longatlas.tasks.labelled import Settings

Drawn = tuple[Tensor, Tensor]
FACTS_SEED = 0  # of the one mapping that memorisation is about


def in_context_recall(settings: Settings, batch: int, generator: torch.Generator) -> Drawn:
    """Pairs of a key (the lower half of V) and a value (the upper half), the same value for a key throughout.

    A key that has been seen before is labelled with its value.
    """
    keys, tokens = _pairs(settings["vocab"], settings["length"] // 2, batch, generator)
    return tokens, _labels_of_known(keys, tokens)


def noisy_recall(settings: Settings, batch: int, generator: torch.Generator) -> Drawn:
    """In-context recall in which pairs are replaced by noise, two tokens from V ... V+N-1, at a rate."""
    vocab, noise = settings["vocab"], settings["noise_vocab"]
    keys, tokens = _pairs(vocab, settings["length"] // 2, batch, generator)
    is_noise = torch.rand(keys.shape, generator=generator) < settings["noise"]
    is_noise[:, 0] = False  # at least one pair
    drawn = vocab + torch.randint(noise, tokens.shape, generator=generator)
    tokens = torch.where(is_noise.repeat_interleave(2, 1), drawn, tokens)
    keys = keys.masked_fill(is_noise, -1)
    return tokens, _labels_of_known(keys, tokens)


def fuzzy_recall(settings: Settings, batch: int, generator: torch.Generator) -> Drawn:
    """In-context recall with keys and values of one to three different tokens; token V-1 fills up.

    Where a key comes again, the last token of the key and all but the last of its value are labelled with what
    follows them.
    """
    source = random.Random(int(torch.randint(1 << 31, (1,), generator=generator)))
    rows = [_fuzzy_row(source, settings["vocab"], settings["length"], settings["motif"]) for _ in range(batch)]
    return torch.tensor([tokens for tokens, _ in rows]), torch.tensor([labels for _, labels in rows])


def selective_copying(settings: Settings, batch: int, generator: torch.Generator) -> Drawn:
    """Data tokens 0 ... V-3 among blanks (V-2), then the sign to copy (V-1), then blanks labelled with the data."""
    vocab, length, n = settings["vocab"], settings["length"], settings["copied"]
    data = torch.randint(vocab - 2, (batch, n), generator=generator)
    tokens = torch.full((batch, length), vocab - 2)
    room = length - n - 1
    places = torch.rand(batch, room, generator=generator).argsort(1)[:, :n].sort(1).values
    tokens.scatter_(1, places, data)
    tokens[:, room] = vocab - 1
    labels = _no_labels((batch, length))
    labels[:, room + 1 :] = data
    return tokens, labels


def compression(settings: Settings, batch: int, generator: torch.Generator) -> Drawn:
    """Tokens 0 ... V-2, then V-1; each is to be read off the last state, so each is its own label."""
    tokens = torch.randint(settings["vocab"] - 1, (batch, settings["length"]), generator=generator)
    tokens[:, -1] = settings["vocab"] - 1
    return tokens, tokens.clone()


def memorisation(settings: Settings, batch: int, generator: torch.Generator) -> Drawn:
    """Keys, each followed by the sign V-1, which is labelled with the key's value: one fixed mapping for all draws."""
    half = (settings["vocab"] - 1) // 2
    facts = half + torch.randperm(half, generator=torch.Generator().manual_seed(FACTS_SEED))
    keys = torch.randint(half, (batch, settings["length"] // 2), generator=generator)
    tokens = torch.stack([keys, torch.full_like(keys, settings["vocab"] - 1)], 2).flatten(1)
    return tokens, torch.stack([_no_labels(keys.shape), facts[keys]], 2).flatten(1)


def _pairs(vocab: int, n: int, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Keys [batch, n], and tokens [batch, 2n] in which each is followed by its value."""
    half = vocab // 2
    keys = torch.randint(half, (batch, n), generator=generator)
    values = half + torch.randint(vocab - half, (batch, half), generator=generator)
    return keys, torch.stack([keys, values.gather(1, keys)], 2).flatten(1)


def _labels_of_known(keys: Tensor, tokens: Tensor) -> Tensor:
    """Labels [batch, 2n]: at each of keys [batch, n] that has come before, its value in tokens; -1 is no key."""
    n = keys.shape[1]
    same = (keys[:, :, None] == keys[:, None]) & (keys >= 0)[:, :, None]
    before = (same & torch.ones(n, n, dtype=torch.bool).tril(-1)).any(2)
    at_keys = tokens[:, 1::2].masked_fill(~before, NO_LABEL)
    return torch.stack([at_keys, torch.full_like(at_keys, NO_LABEL)], 2).flatten(1)


def _no_labels(shape: tuple[int, ...]) -> Tensor:
    return torch.full(shape, NO_LABEL)


def _fuzzy_row(source: random.Random, vocab: int, length: int, motif: int) -> tuple[list[int], list[int]]:
    """Tokens and labels of one sequence of fuzzy recall."""
    half, filler = (vocab - 1) // 2, vocab - 1
    known: dict[tuple[int, ...], list[int]] = {}
    tokens: list[int] = []
    labels: list[int] = []
    while len(tokens) + 2 * motif <= length:
        key = tuple(source.sample(range(half), source.randint(1, motif)))
        seen = key in known
        value = known.setdefault(key, source.sample(range(half, vocab - 1), source.randint(1, motif)))
        tokens += [*key, *value]
        answer = value if seen else [NO_LABEL] * len(value)
        labels += [*[NO_LABEL] * (len(key) - 1), *answer, NO_LABEL]
    spare = length - len(tokens)
    return [filler] * spare + tokens, [NO_LABEL] * spare + labels
