"""Trained hosts on disk: one safetensors file each, whose header says what it is."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

Weights = dict[str, Tensor]


def path_of(folder: Path | str, name: str, facts: Mapping[str, Any]) -> Path:
    """The file of a host: its name and a digest of the facts that it was trained by."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]
    return Path(folder) / f"{name}-{digest}.safetensors"


def write(path: Path, weights: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Save weights with their facts. The file appears whole or not at all, also with several writers."""
    from safetensors.torch import save

    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    header = {name: json.dumps(value) for name, value in facts.items()}
    data = save(whole, {**header, "checksum": _checksum(whole)})
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with partial.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def read(path: Path) -> tuple[Weights, dict[str, Any]] | None:
    """The weights and facts of a host; None when the file is missing, cut short or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header.pop("checksum", "") != _checksum(weights):
            return None
        return weights, {name: json.loads(value) for name, value in header.items()}
    except (OSError, SafetensorError, ValueError):
        return None


def _checksum(weights: Mapping[str, Tensor]) -> str:
    from safetensors.torch import save

    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + save({"": weights[name]}))
    return digest.hexdigest()
