"""Small requests to a ClickHouse server over kept connections, at a third of the processor time of urllib3's way.

A page asks some forty questions a snapshot. Of the 1.3 ms that one costs the dashboard, more than half goes into
urllib3's and http.client's layers (the e-mail parser for a dozen headers, URLs taken apart twice, a pool per key).
The client library takes any pool manager (`pool_mgr`); this one answers its plain requests itself and leaves
everything else (TLS, streams, forms, first contact that fails) to urllib3, so the errors are urllib3's in all cases.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Iterator, Mapping
from http.client import RemoteDisconnected
from typing import Any
from urllib.parse import urlsplit

from urllib3 import PoolManager
from urllib3.exceptions import IncompleteRead, ProtocolError, ReadTimeoutError
from urllib3.response import BaseHTTPResponse

_KEPT = 8
_CHUNK = 1 << 16
_MOST_HEADER_BYTES = 1 << 16
_OPTIONS = ((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1))


class Headers(Mapping[str, str]):
    """Header fields by name, whatever the case."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Mapping[str, str]) -> None:
        """fields: lower-case name -> value."""
        self._fields = fields

    def __getitem__(self, name: str) -> str:
        """The value; raises KeyError."""
        return self._fields[name.lower()]

    def __iter__(self) -> Iterator[str]:
        """Names, lower case."""
        return iter(self._fields)

    def __len__(self) -> int:
        """How many fields there are."""
        return len(self._fields)


class Answer:
    """A whole answer, in the shape the client library reads urllib3's in."""

    __slots__ = ("data", "headers", "status")

    def __init__(self, status: int, headers: Headers, data: bytes) -> None:
        self.status = status
        self.headers = headers
        self.data = data

    def close(self) -> None:
        """Nothing is open: the body has been read."""

    def release_conn(self) -> None:
        """The connection went back when the body had been read."""


class KeptConnections(PoolManager):
    """A pool manager for one server. Safe to use from any thread."""

    def __init__(self) -> None:
        super().__init__(maxsize=_KEPT, retries=1)
        self._free: list[socket.socket] = []
        self._free_lock = threading.Lock()

    def request(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        method: str,
        url: str,
        body: Any = None,  # noqa: ANN401 - as urllib3's
        fields: Any = None,  # noqa: ANN401
        headers: Mapping[str, str] | None = None,
        **options: Any,  # noqa: ANN401
    ) -> BaseHTTPResponse | Answer:
        """As `PoolManager.request`; a POST of bytes whose answer is wanted whole takes the short way."""
        plain = method == "POST" and isinstance(body, bytes) and fields is None and options.get("preload_content", True)
        parts = urlsplit(url)
        if plain and parts.scheme == "http" and parts.hostname is not None:
            timeout = options["timeout"]
            connection = self._take() or _connect(parts.hostname, parts.port or 80, timeout.connect_timeout)
            if connection is not None:
                connection.settimeout(timeout.read_timeout)
                target = f"{parts.path or '/'}?{parts.query}"
                return self._exchange(connection, url, parts.netloc, target, body, headers or {})
        return super().request(method, url, body=body, fields=fields, headers=headers, **options)

    def clear(self) -> None:
        """Close the connections that are not in use."""
        super().clear()
        with self._free_lock:
            free, self._free = self._free, []
        for connection in free:
            connection.close()

    def _take(self) -> socket.socket | None:
        """A kept connection that the server has not closed meanwhile: one that can be read already is at its end."""
        while True:
            with self._free_lock:
                if not self._free:
                    return None
                connection = self._free.pop()
            poll = select.poll()
            poll.register(connection, select.POLLIN)
            if not poll.poll(0):
                return connection
            connection.close()

    def _exchange(
        self, connection: socket.socket, url: str, host: str, target: str, body: bytes, headers: Mapping[str, str]
    ) -> Answer:
        head = [f"POST {target} HTTP/1.1", f"Host: {host}", "Accept-Encoding: identity"]
        head += [f"Content-Length: {len(body)}", *(f"{name}: {value}" for name, value in headers.items())]
        try:
            connection.sendall("\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body)
            answer, reusable = _read(connection)
        except TimeoutError as error:
            connection.close()
            raise ReadTimeoutError(None, url, "Read timed out.") from error  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        except OSError as error:
            connection.close()
            raise ProtocolError("Connection aborted.", error) from error
        except (IncompleteRead, ValueError) as error:
            connection.close()
            raise ProtocolError(f"Answer broken: {error}", error) from error
        with self._free_lock:
            keep = reusable and len(self._free) < _KEPT
            if keep:
                self._free.append(connection)
        if not keep:
            connection.close()
        return answer


def _connect(host: str, port: int, timeout: float | None) -> socket.socket | None:
    """A new connection; None when there is none to be had: urllib3 tries again then, and has the words for it."""
    with contextlib.suppress(OSError):
        connection = socket.create_connection((host, port), timeout=timeout)
        for level, option, value in _OPTIONS:
            connection.setsockopt(level, option, value)
        return connection
    return None


def _read(connection: socket.socket) -> tuple[Answer, bool]:
    """One answer, and whether the connection can be used again.

    Raises OSError, IncompleteRead, or ValueError for what is no HTTP.
    """
    received = bytearray()
    while (end := received.find(b"\r\n\r\n")) < 0:
        if len(received) > _MOST_HEADER_BYTES:
            raise ValueError("headers without end")
        received += _more(connection, received)
    status_line, *lines = received[:end].decode("latin-1").split("\r\n")
    version, status = status_line.split(" ", 2)[:2]
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields[name.strip().lower()] = value.strip()
    rest = received[end + 4 :]
    reusable = version == "HTTP/1.1" and fields.get("connection", "").lower() != "close"
    if fields.get("transfer-encoding", "").lower() == "chunked":
        data = _chunks(connection, rest)
    elif "content-length" in fields:
        length = int(fields["content-length"])
        while len(rest) < length:
            rest += _more(connection, rest)
        data = bytes(rest)
    else:
        while chunk := connection.recv(_CHUNK):
            rest += chunk
        data, reusable = bytes(rest), False
    return Answer(int(status), Headers(fields), data), reusable


def _more(connection: socket.socket, before: bytearray) -> bytes:
    received = connection.recv(_CHUNK)
    if not received:
        if before:
            raise IncompleteRead(len(before), 0)
        raise RemoteDisconnected("Remote end closed connection without response")
    return received


def _chunks(connection: socket.socket, received: bytearray) -> bytes:
    data = bytearray()
    while True:
        while (end := received.find(b"\r\n")) < 0:
            received += _more(connection, received or bytearray(b"-"))
        size = int(received[:end].split(b";")[0], 16)
        while len(received) < end + 2 + size + 2:
            received += _more(connection, received)
        if size == 0:  # no trailers: ClickHouse sends none
            return bytes(data)
        data += received[end + 2 : end + 2 + size]
        del received[: end + 2 + size + 2]
