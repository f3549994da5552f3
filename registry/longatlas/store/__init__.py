"""The store: finished cells with their rows, and the queue of jobs; SQLite, or another database by URL."""

from longatlas.store.connection import default_store_path, store_url
from longatlas.store.store import Store, open_to_read

__all__ = ["Store", "default_store_path", "open_to_read", "store_url"]
