"""The decoder with its slots, and the plain choice for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from longatlas.lazy import lazy_exports

if TYPE_CHECKING:
    from longatlas.decoder.config import DecoderConfig
    from longatlas.decoder.decoder import Decoder

__all__ = ["Decoder", "DecoderConfig"]

__getattr__ = lazy_exports(__name__, {"Decoder": ".decoder", "DecoderConfig": ".config"})
