"""The bytes that several ranks take, of the largest one, and what they send each other."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from longatlas.measure import ranks
from longatlas.measure.ranks import Cell
from longatlas.measure.rows import Row


def memory_rows(cell: Cell) -> list[Row]:
    """The memory pass in each rank, of each number the largest; and `collective_elements`.

    These are the elements of all tensors that a rank hands to collectives or sends in one repetition, backward included
    in training, counted as they are called: of a sum over the ranks the whole tensor, of a gathering the own part.
    """
    by_rank = [{row["metric"]: row for row in rows} for rows in ranks.each(cell, _memory)]
    return [max((rows[metric] for rows in by_rank), key=lambda row: row["value"]) for metric in by_rank[0]]


def _memory(rank: int, n: int, cell: Cell) -> list[Row]:
    from longatlas.measure.memory import memory_rows

    once = ranks.repetition(n, cell)
    with CollectiveElements() as sent:
        once()
    rows = memory_rows(once.subject, cell["phase"], cell["T"], cell["device"])
    return [*rows, {"metric": "collective_elements", "unit": "elements", "value": float(sent.elements), "n": 1}]


class CollectiveElements(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what this rank hands to torch.distributed inside it, DTensor's collectives included.

    elements  of all tensors given; what is received does not count
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(hasattr(kind, "to_local") for kind in types):
            return NotImplemented  # a DTensor takes its operations apart, and they come here again
        schema = func._schema
        if schema.name.partition("::")[0] in ("c10d", "_c10d_functional"):
            for parameter, argument in zip(schema.arguments, args, strict=False):
                if parameter.name in GIVEN and not schema.name.endswith(NOTHING_GIVEN):
                    self.elements += sum(t.numel() for t in _pytree.tree_leaves(argument) if isinstance(t, Tensor))
        return func(*args, **(kwargs or {}))


# How torch's collectives name what they are given, and those of them that give nothing.
GIVEN = ("tensors", "tensor", "input", "inputs", "input_tensor", "input_tensors", "input_list")
NOTHING_GIVEN = ("::recv_", "::recv_any_source_", "::irecv", "::barrier", "::monitored_barrier_", "::wait_tensor")
