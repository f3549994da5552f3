"""The store: finished cells with their rows, and the queue of jobs; SQLite, or another database by URL."""

from typing import TYPE_CHECKING

from longatlas.lazy import lazy_exports

if TYPE_CHECKING:
    from longatlas.store.connection import default_store_path, store_url
    from longatlas.store.store import Store, open_to_read

__all__ = ["Store", "default_store_path", "open_to_read", "store_url"]

__getattr__ = lazy_exports(
    __name__,
    {
        "Store": ".store",
        "open_to_read": ".store",
        "default_store_path": ".connection",
        "store_url": ".connection",
    },
)
