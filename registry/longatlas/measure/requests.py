"""What a worker can be asked, by name. A function returns `rows` of a cell, or the `value` of what it found out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from longatlas.errors import UnsupportedError
from longatlas.footprint import Setting
from longatlas.measure.bench import Bench, estimate
from longatlas.measure.footprint import table
from longatlas.measure.influence import influence
from longatlas.measure.roofline import machine_peaks
from longatlas.measure.rows import Answer
from longatlas.testing import verify_method

Tell = Callable[[Any], None]


def functions(tell: Tell) -> dict[str, Callable[..., Answer]]:
    """The functions of one worker by their names; `tell` sends a value of JSON before the answer."""
    bench = Bench()
    return {
        "measure": bench.measure,
        "prepare": bench.prepare,
        "sample": bench.sample,
        "estimate": estimate,
        "peaks": _peaks,
        "verify": partial(_verify, tell),
        "influence": _influence,
        "footprint": _footprint,
    }


def _peaks(device: str, dtype: str, threads: int) -> Answer:
    """What the machine reaches: see longatlas.measure.roofline.machine_peaks."""
    return {"value": machine_peaks(device, dtype, threads).to_dict()}


def _verify(tell: Tell, spec: str, device: str = "cpu") -> Answer:
    """The report of a method as a dict; each check is told as soon as it is done."""
    if device != "cpu" and not torch.cuda.is_available():
        raise UnsupportedError(f"--device is '{device}', but torch finds no GPU here; `longatlas doctor` says why")
    report = verify_method(spec, device=device, progress=lambda result: tell(asdict(result)))
    return {"value": report.as_dict()}


def _influence(spec: str, tokens: int | None = None, layers: int = 1) -> Answer:
    """The map of a method as a dict."""
    torch.set_num_threads(1)
    return {"value": influence(spec, tokens=tokens, layers=layers).as_dict()}


def _footprint(**setting: int) -> Answer:
    """Table 1 of the Infini paper for a setting, as a list of rows."""
    torch.set_num_threads(1)
    return {"value": table(Setting(**setting))}
