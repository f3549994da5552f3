"""`python -m longatlas`, the same program as `longatlas`."""

from __future__ import annotations

from longatlas.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
