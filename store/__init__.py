"""The store: one ClickHouse client, embedded or over HTTP, with its schema, retention, spool and gateway."""

from store.client import Store, StoreOptions, open_store
from store.errors import StoreError, StoreUnavailable

__all__ = ["Store", "StoreError", "StoreOptions", "StoreUnavailable", "open_store"]
