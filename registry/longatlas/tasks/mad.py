"""The six MAD skills (arXiv:2403.17844): small recall, copying, compression and memory tasks, one accuracy each."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from longatlas.decoder.decoder import Decoder
from longatlas.errors import UnsupportedError
from longatlas.tasks import mad_draws, scores
from longatlas.tasks.labelled import Draw, Settings, batches, host, unseen
from longatlas.tasks.session import Recipe, Session
from longatlas.tasks.sweep import Row

# Number of possible answers, of which guessing takes one.
GUESSES = {
    "in_context_recall": lambda s: s["vocab"] - s["vocab"] // 2,
    "noisy_recall": lambda s: s["vocab"] - s["vocab"] // 2,
    "fuzzy_recall": lambda s: s["vocab"] - 1 - (s["vocab"] - 1) // 2,
    "selective_copying": lambda s: s["vocab"] - 2,
    "compression": lambda s: s["vocab"] - 1,
    "memorisation": lambda s: (s["vocab"] - 1) // 2,
}


def run(session: Session, skill: str) -> list[Row]:
    """The share of labelled places of a skill that are answered right."""
    if session.combination.fills("context"):
        raise UnsupportedError("every place is scored; a context method answers the last tokens only")
    settings, draw = session.settings, getattr(mad_draws, skill)
    config = host(settings, settings["vocab"] + settings.get("noise_vocab", 0), settings["length"])
    draw_batch = partial(draw, settings, settings["batch"])
    recipe = Recipe(config, lambda seed: batches([draw_batch], seed, session.device), f"mad_{skill}")
    if skill == "compression":
        recipe = Recipe(config, recipe.batches, recipe.content, partial(Autoencoder, length=settings["length"]))
    return session.sweep(recipe, partial(_score, session, draw, GUESSES[skill](settings)))


def _score(session: Session, draw: Draw, guesses: int, learner: object, seed: int) -> list[Row]:
    settings: Settings = session.settings
    tokens, labels = draw(settings, int(settings["trials"]), unseen(seed))
    found = scores.right(learner, tokens.to(session.device), labels.to(session.device))
    length = settings["length"]
    return [scores.share("accuracy", length, int(found.sum()), len(found)), scores.chance(length, guesses)]


class Autoencoder(nn.Module):
    """Reads every token of a sequence off the decoder's last hidden state, by its place and a small MLP."""

    def __init__(self, decoder: Decoder, *, length: int) -> None:
        super().__init__()
        width = decoder.config.d_model
        self.decoder = decoder
        self.places = nn.Embedding(length, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def loss(self, tokens: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None) -> Tensor:
        """The method's objective, which asks for the labels [B, T] by logits_at."""
        return self.decoder.loss(tokens, labels, generator=generator, through=partial(_Read, self))

    def logits_at(self, tokens: Tensor, chosen: Tensor) -> Tensor:
        """Logits [n, V] of the tokens [B, T] at bool chosen [B, T]."""
        return self.read(self.decoder.hidden(tokens)[0], chosen)

    def read(self, x: Tensor, chosen: Tensor) -> Tensor:
        """Logits [n, V] from hidden states x [B, T, d_model]."""
        places = torch.arange(x.shape[1], device=x.device)
        read = x[:, -1:] + self.places(places)  # [B, T, d_model]
        return self.decoder.head(self.mlp(read[chosen]))


class _Read:
    """A decoder as the autoencoder reads it."""

    def __init__(self, autoencoder: Autoencoder, decoder: Any) -> None:
        self._autoencoder, self._decoder = autoencoder, decoder

    def logits_at(self, tokens: Tensor, chosen: Tensor) -> Tensor:
        return self._autoencoder.read(self._decoder.hidden(tokens)[0], chosen)

    def __call__(self, *arguments: Any) -> Any:
        raise UnsupportedError("compression is answered at chosen places alone; an objective must ask by logits_at")
