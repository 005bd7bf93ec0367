"""How the store fails.

StoreError            the engine refused the statement or the data; sending it again changes nothing
└── StoreUnavailable  the store cannot answer now; the same call may work later
"""

from __future__ import annotations


class StoreError(Exception):
    """The engine refused a statement. `code` is ClickHouse's error code, 0 when the engine gave none."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class StoreUnavailable(StoreError):  # noqa: N818 - it names a state of the store, as the callers read it
    """The store cannot be reached, is out of room, or is busy; the same batch may be sent again later."""
