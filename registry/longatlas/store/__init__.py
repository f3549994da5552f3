"""The store: finished cells with their rows, and the queue of jobs; SQLite, or another database by URL."""

from longatlas.store.connection import default_store_path, store_url
from longatlas.store.store import Store

__all__ = ["Store", "default_store_path", "store_url"]
