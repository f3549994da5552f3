"""Compares several ranks with one: outputs, final state and every gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from longatlas.combination import Combination, as_combination, parse_spec
from longatlas.decoder.config import DecoderConfig
from longatlas.errors import LongAtlasError
from longatlas.parallel import Launcher
from longatlas.testing.case import Case
from longatlas.testing.compare import EXACT
from longatlas.testing.impls import ROUGH, WITHOUT_DOUBLE, Evidence, evidence, require_same

LENGTHS = (63, 3)  # tokens: parts of unequal length, and some ranks with none
SECONDS = 600.0

Sent = Combination | str


def compare_ranks(case: Case, n: int, impl: str, launcher: Launcher) -> None:
    """Fail where one of n ranks departs from one rank alone: in fp64 from 1e-9 on, kernels in fp32 as an impl may."""
    rough = impl.startswith(WITHOUT_DOUBLE)
    dtype, tolerance = (torch.float32, ROUGH[torch.float32].gradient) if rough else (torch.float64, EXACT)
    expected = [evidence(case, impl, dtype, length) for length in LENGTHS]
    about = (_sent(case.combination), _sent(case.scaled), case.config, case.device, impl, dtype)
    for rank, by_length in enumerate(launcher.run(n, _of_rank, *about, timeout=SECONDS, device=case.device)):
        for length, told, alone in zip(LENGTHS, by_length, expected, strict=True):
            alone = [(name, tensor.cpu()) for name, tensor in alone]
            require_same(told, alone, f"rank {rank} of {n} at T = {length} beside one rank", tolerance)


def _of_rank(
    rank: int, n: int, whole: Sent, scaled: Sent, config: DecoderConfig, device: str, impl: str, dtype: torch.dtype
) -> Sequence[Evidence]:
    case = Case(as_combination(whole), as_combination(scaled), config, device)
    return [evidence(case, impl, dtype, length) for length in LENGTHS]


def _sent(combination: Combination) -> Sent:
    """What ranks are told: the spec of installed methods, whose builders need not be pickled then."""
    try:
        return combination.spec if parse_spec(combination.spec) == combination else combination
    except LongAtlasError:
        return combination
