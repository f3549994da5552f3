"""Measures one cell: from its description to its rows."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

from longatlas.catalog import load_catalog
from longatlas.combination import Combination, parse_spec
from longatlas.decoder.config import DecoderConfig
from longatlas.decoder.decoder import Decoder
from longatlas.decoder.state import state_bytes
from longatlas.errors import LongAtlasError, UnsupportedError
from longatlas.harness.executor import is_about_memory
from longatlas.measure.memory import LiveBytes
from longatlas.measure.speed import median_interval, phase_runner, random_tokens, sample_seconds, synchroniser
from longatlas.tasks.session import Session
from longatlas.testing.case import make_case
from longatlas.testing.impls import compare_impl

Row = dict[str, Any]

ROW_KEYS = frozenset(("metric", "value", "unit", "T", "low", "high", "n", "samples", "status", "reason"))

_gates: dict[tuple[str, str, str], str] = {}


def run_cell(cell: dict[str, Any], cache: str) -> list[Row]:
    """The rows of a cell. Bad luck is a row too: `incorrect`, `unsupported` or `oom` with its reason.

    cell   the fields of longatlas.harness.cells.Cell
    cache  folder for trained hosts
    """
    torch.set_num_threads(cell["threads"])
    combination = parse_spec(cell["method"])
    try:
        if cell["device"] == "cuda" and not torch.cuda.is_available():
            raise UnsupportedError("torch finds no GPU here; `longatlas doctor` says why")
        red = gate(combination, cell["impl"], cell["device"])
        if red:
            return [failure("incorrect", red)]
        torch.set_num_threads(cell["threads"])
        return checked(_MEASURES[cell["measure"]](cell, combination, cache))
    except UnsupportedError as error:
        return [failure("unsupported", str(error))]
    except LongAtlasError as error:
        return [failure("unsupported", str(error))]
    except MemoryError:
        return [failure("oom", "the worker's memory limit was reached")]
    except RuntimeError as error:
        if is_out_of_memory(error):
            return [failure("oom", str(error).splitlines()[0])]
        raise


def failure(status: str, reason: str) -> Row:
    """A row without a value."""
    return {"status": status, "reason": reason}


def checked(rows: list[Row]) -> list[Row]:
    """The rows, when they are what the store takes; a task of a plugin may give anything."""
    if not isinstance(rows, list) or not rows:
        raise TypeError(f"a task's run must return a list of at least one metric, not {rows!r}")
    for row in rows:
        wrong = set(row) - ROW_KEYS
        if wrong:
            raise TypeError(f"a metric has the key '{min(wrong)}'; known: {', '.join(sorted(ROW_KEYS))}")
    return rows


def is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or is_about_memory(str(error))


def gate(combination: Combination, impl: str, device: str) -> str:
    """ "" when an impl agrees with the reference, else what differs; looked at once per worker.

    Impls of one method are compared at T = 63 with small shapes, outputs, state and gradients.
    """
    key = (combination.spec, impl, device)
    if key not in _gates:
        torch.set_num_threads(1)
        try:
            compare_impl(make_case(combination, device), impl, 63)
            _gates[key] = ""
        except AssertionError as error:
            _gates[key] = str(error)
    return _gates[key]


def _build(cell: dict[str, Any], combination: Combination) -> Decoder:
    case = cell["case"]
    config = DecoderConfig(
        d_model=case["heads"] * case["head_size"],
        n_layers=case["layers"],
        n_heads=case["heads"],
        train_length=cell["T"],
    )
    torch.manual_seed(cell["seed"])
    return Decoder(config, combination, impl=cell["impl"]).to(cell["device"], getattr(torch, cell["dtype"]))


def _speed(cell: dict[str, Any], combination: Combination, cache: str) -> list[Row]:
    phase, batch = cell["phase"], cell["case"]["batch"]
    decoder = _build(cell, combination)
    run = phase_runner(decoder, phase, cell["T"], batch, cell["seed"])
    samples = sample_seconds(run, cell["budget"], synchroniser(cell["device"]))
    median, (low, high) = statistics.median(samples), median_interval(samples)
    tokens = batch * (1 if phase == "decode" else cell["T"])
    milliseconds = [1000 * s for s in samples]
    return [
        {
            "metric": f"{phase}_ms",
            "unit": "ms",
            "value": 1000 * median,
            "low": 1000 * low,
            "high": 1000 * high,
            "n": len(samples),
            "samples": milliseconds,
        },
        {
            "metric": "tokens_per_s",
            "unit": "tokens/s",
            "value": tokens / median,
            "low": tokens / high,
            "high": tokens / low,
            "n": len(samples),
        },
    ]


def _memory(cell: dict[str, Any], combination: Combination, cache: str) -> list[Row]:
    phase, batch, length = cell["phase"], cell["case"]["batch"], cell["T"]
    decoder = _build(cell, combination)
    run = phase_runner(decoder, phase, length, batch, cell["seed"])
    counter = LiveBytes()
    with counter:
        run()
    rows = [{"metric": "peak_bytes", "unit": "bytes", "value": float(counter.peak), "n": 1}]
    if phase == "prefill":
        with torch.no_grad():
            _, state = decoder(random_tokens(decoder, batch, length, cell["seed"]))
        rows.append({"metric": "state_bytes", "unit": "bytes", "value": float(state_bytes(state)), "n": 1})
    return rows


def _quality(cell: dict[str, Any], combination: Combination, cache: str) -> list[Row]:
    task = load_catalog().task(cell["phase"])
    preset = cell["case"]["preset"]
    if preset not in task.presets:
        raise UnsupportedError(f"task '{task.name}' has no preset '{preset}'; it has: {', '.join(task.presets)}")
    session = Session(
        combination=combination,
        impl=cell["impl"],
        device=cell["device"],
        dtype=getattr(torch, cell["dtype"]),
        seed=cell["seed"],
        settings={**task.presets[preset]},
        corpus=cell["case"].get("corpus", ""),
        cache=cache,
    )
    rows: list[Row] = task.run(session)
    return rows


_MEASURES: dict[str, Callable[[dict[str, Any], Combination, str], list[Row]]] = {
    "speed": _speed,
    "memory": _memory,
    "quality": _quality,
}
