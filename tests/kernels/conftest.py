"""Kernels on whatever is at hand: a GPU, else Triton's interpreter (TRITON_INTERPRET=1), else the compiler alone.

Files named *_compiled.py hold what the compiler can show without a GPU and need the interpreter to be off; all others
run kernels. So without a GPU `make test` goes through this folder twice, in two processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETING or not torch.cuda.is_available() else "cuda"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    runnable = INTERPRETING or DEVICE == "cuda"
    for item in items:
        if item.path.parent.name != "kernels":
            continue
        if item.path.stem.endswith("_compiled"):
            if INTERPRETING:
                item.add_marker(pytest.mark.skip(reason="the interpreter is on; the compiler's tests need it off"))
        elif not runnable:
            item.add_marker(pytest.mark.skip(reason="no GPU; set TRITON_INTERPRET=1 to run kernels on the CPU"))


@pytest.fixture
def device() -> str:
    return DEVICE


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """torch.empty gives NaN: what a kernel leaves unwritten shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
