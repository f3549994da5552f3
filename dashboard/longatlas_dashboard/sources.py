"""The source files of a method, read from where its builders live."""

from __future__ import annotations

import sys
from pathlib import Path

from longatlas.cards import Method

MAX_BYTES = 200_000
_FIRST = ("__init__.py", "fast.py", "operation.py", "reference.py")


def source_files(method: Method) -> dict[str, str]:
    """File name -> text: a builder's whole package, or its module; the card and the fast impl come first."""
    found: dict[str, Path] = {}
    for builder in method.fills.values():
        module = sys.modules.get(getattr(builder, "__module__", ""))
        file = getattr(module, "__file__", None)
        if file:
            path = Path(file)
            files = sorted(path.parent.glob("*.py")) if path.name == "__init__.py" else [path]
            found |= {item.name: item for item in files}
    names = sorted(found, key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name))
    return {name: _text(found[name]) for name in names}


def _text(path: Path) -> str:
    try:
        return path.read_bytes()[:MAX_BYTES].decode("utf-8", errors="replace")
    except OSError as error:
        return f"# cannot be read: {error.strerror}"
