"""longatlas: the executable survey of long-context Transformers.

What a plugin author needs is here. Importing it loads no torch: names that need torch come on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from longatlas.cards import Cost, Method, Option, Peer, Task
from longatlas.errors import LongAtlasError, UnknownNameError, UnsupportedError
from longatlas.hookspecs import hookimpl, method_folder
from longatlas.lazy import lazy_exports
from longatlas.slots import Attention, Context, Here, Memory, Position, Prompt, Seen, Where
from longatlas.trainings import Teacher

if TYPE_CHECKING:
    from longatlas.combination import Combination, parse_spec
    from longatlas.decoder.config import DecoderConfig
    from longatlas.decoder.decoder import Decoder
    from longatlas.decoder.operation import operation
    from longatlas.decoder.projected import ProjectedMixer
    from longatlas.decoder.read import Read
    from longatlas.decoder.segment_loop import SegmentLoop
    from longatlas.harness.plan import Plan
    from longatlas.harness.running import run
    from longatlas.store import Store

__all__ = [
    "Attention",
    "Combination",
    "Context",
    "Cost",
    "Decoder",
    "DecoderConfig",
    "Here",
    "LongAtlasError",
    "Memory",
    "Method",
    "Option",
    "Peer",
    "Plan",
    "Position",
    "ProjectedMixer",
    "Prompt",
    "Read",
    "Seen",
    "SegmentLoop",
    "Store",
    "Task",
    "Teacher",
    "UnknownNameError",
    "UnsupportedError",
    "Where",
    "hookimpl",
    "method_folder",
    "operation",
    "parse_spec",
    "run",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "Combination": ".combination",
        "parse_spec": ".combination",
        "DecoderConfig": ".decoder.config",
        "Decoder": ".decoder.decoder",
        "ProjectedMixer": ".decoder.projected",
        "SegmentLoop": ".decoder.segment_loop",
        "operation": ".decoder.operation",
        "Read": ".decoder.read",
        "Plan": ".harness.plan",
        "run": ".harness.running",
        "Store": ".store",
    },
)
