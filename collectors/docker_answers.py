"""What a daemon answers is checked here, before anything relies on its shape; and that somebody answers at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from socket import AF_UNIX, socket
from typing import cast
from urllib.parse import urlsplit


def json_object(value: object) -> Mapping[str, object]:
    """The value if it is a JSON object. Raises ValueError: the daemon answers something else than its API says."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"a JSON object was expected, not {type(value).__name__}")  # noqa: TRY004
    return cast("Mapping[str, object]", value)


def json_array(value: object) -> Sequence[object]:
    """The value if it is a JSON array. Raises ValueError."""
    if not isinstance(value, list):
        raise ValueError(f"a JSON array was expected, not {type(value).__name__}")  # noqa: TRY004
    return cast("Sequence[object]", value)


def probe_unix(url: str, timeout_seconds: float) -> None:
    """Connect to the unix socket of a url (any other is left alone). Raises OSError.

    By hand before each use of the SDK, which loses its socket, and the reason, when a connection is refused.
    """
    parts = urlsplit(url)
    if parts.scheme == "unix":
        with closing(socket(AF_UNIX)) as probe:
            probe.settimeout(timeout_seconds)
            probe.connect(parts.path)
