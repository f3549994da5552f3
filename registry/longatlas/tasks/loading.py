"""A host's weights in a learner with another method: what does not fit is told by name."""

from __future__ import annotations

from torch import nn

from longatlas.errors import LongAtlasError
from longatlas.tasks.hosts import Weights


def load(learner: nn.Module, weights: Weights, spec: str, *, exactly: bool) -> list[str]:
    """Put a host's weights into a learner with a method; the names of what the host lacked.

    exactly  host and learner must have the same weights, by name

    Raises LongAtlasError where they do not fit.
    """
    try:
        keys = learner.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise LongAtlasError(f"'{spec}' cannot take its host's weights: {error}") from None
    odd = {"lacks its weights": keys.missing_keys, "has weights without a place:": keys.unexpected_keys}
    for words, names in odd.items():
        if names and exactly:
            raise LongAtlasError(
                f"'{spec}' is put into its host as it is, and the host {words} {_listed(names)}; let its module fill "
                "or take them on loading (_load_from_state_dict), or give the card training='adapt'"
            )
    return list(keys.missing_keys)


def freeze_all_but(learner: nn.Module, new: list[str], spec: str) -> None:
    """Let only new parameters be trained. Raises LongAtlasError where none is new."""
    parameters = dict(learner.named_parameters())
    if not parameters.keys() & set(new):
        raise LongAtlasError(
            f"'{spec}' tunes its new weights alone, and has none that its host lacks; give the card tunes='all'"
        )
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in new)


def _listed(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
