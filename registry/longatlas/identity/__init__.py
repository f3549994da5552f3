"""What a number is: which machine and versions measured it, and which code computed it. Nothing here imports torch.

A cell's key holds both beside what was asked. Who measured is told by the process that measured
(longatlas.identity.machine). The code is the import closure of what computes the cell: the method's builders, the code
of its measure, and for quality the task (longatlas.identity.code). It is read from source as it lies on disk, and
counted without comments, docstrings, layout and what a card only tells (longatlas.identity.module).
"""

from longatlas.identity.code import Code, current_sources
from longatlas.identity.machine import counted, facts, machine_name

__all__ = ["Code", "counted", "current_sources", "facts", "machine_name"]
