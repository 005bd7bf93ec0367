"""The HTTP side of the Prometheus source: a session that cannot hang, fill the memory or leak a token.

`requests` alone gives none of this: its timeout restarts with every packet, bodies are read whole whatever their
size, redirects carry on to login pages, and a netrc entry replaces our Authorization header.
"""

from __future__ import annotations

import io
import ipaddress
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase
from urllib3.exceptions import HTTPError

#: A listening server answers SYN well within this, over continents too; two tries then stay under 3 s.
CONNECT_SECONDS = 1.2
_CHUNK_BYTES = 1 << 16
_ERROR_BODY_BYTES = 4096


class AnswerTooLargeError(requests.RequestException):
    """The body went over the limit and was dropped unread."""


class RefusedError(requests.RequestException):
    """The server answered with a status other than success. `body` is the beginning of what it said."""

    def __init__(self, status: int, content_type: str, body: bytes, location: str) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.content_type = content_type
        self.body = body
        self.location = location


class CredentialsError(requests.RequestException):
    """A token or password file cannot be read. The message never holds its contents."""


class FileCredentials(AuthBase):
    """A bearer token, or user and password, kept in a file that may be rotated under us."""

    def __init__(self, path: Path, username: str = "") -> None:
        self._path = path
        self._username = username
        self._secret: str | None = None

    def __call__(self, r: requests.PreparedRequest) -> requests.PreparedRequest:
        """Put the header on a request, reading the file at the first one."""
        if self._secret is None:
            self.reload()
        r.headers["Authorization"] = self._header()
        return r

    def reload(self) -> bool:
        """Read the file again; True when its contents changed. Raises CredentialsError."""
        try:
            secret = self._path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise CredentialsError(f"{self._path} cannot be read: {why}") from error
        if not secret or "\n" in secret or "\r" in secret:
            raise CredentialsError(f"{self._path} must hold one line with the secret")
        changed = secret != self._secret
        self._secret = secret
        return changed

    def _header(self) -> str:
        secret = self._secret or ""
        if self._username:
            return "Basic " + b64encode(f"{self._username}:{secret}".encode()).decode("ascii")
        return f"Bearer {secret}"


class BoundedSession(requests.Session):
    """A session with one deadline for all that is sent until the next `begin`, and a limit for every body."""

    def __init__(
        self,
        *,
        body_limit_bytes: int,
        credentials: FileCredentials | None = None,
        ca_file: str = "",
        near: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """near: the server is on this machine or network, so ask for uncompressed answers, five times quicker there,
        and go past the proxy of the environment, which is for what lies outside.
        """
        super().__init__()
        self._limit = body_limit_bytes
        self._credentials = credentials
        self._monotonic = monotonic
        self._deadline = monotonic()
        self.auth = credentials
        if credentials is None:
            self.auth = _no_credentials  # otherwise requests looks for a netrc entry
        if ca_file:
            self.verify = ca_file
        if near:
            self.headers["Accept-Encoding"] = "identity"
            self.trust_env = False
        self.headers["User-Agent"] = "ai-fleet"

    def begin(self, seconds: float) -> None:
        """Start a poll: everything sent from now on must be answered within so many seconds together."""
        self._deadline = self._monotonic() + seconds

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline, 0 after it."""
        return max(0.0, self._deadline - self._monotonic())

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Never: an API does not redirect, a login page in front of it does. `send` reports it instead."""
        del resp
        return None

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:  # noqa: ANN401 - the base class's signature
        """Send within the deadline and read at most the limit. Raises requests.RequestException and its kin here."""
        response = self._send_once(request, kwargs)
        if response.status_code == HTTPStatus.UNAUTHORIZED and self._credentials is not None:
            response.close()
            if not self._credentials.reload():
                raise _refused(response, b"")
            response = self._send_once(self._credentials(request.copy()), kwargs)
        if response.status_code >= HTTPStatus.MULTIPLE_CHOICES:
            body = self._body(response, _ERROR_BODY_BYTES, whole=False)
            raise _refused(response, body)
        body = self._body(response, self._limit)
        response.raw = io.BytesIO(body)
        return response

    def _send_once(self, request: requests.PreparedRequest, kwargs: Mapping[str, Any]) -> requests.Response:
        left = self.seconds_left
        if left <= 0.0:
            raise requests.Timeout("the time for this poll was used up before the request")
        settings = {**kwargs, "stream": True, "timeout": (min(CONNECT_SECONDS, left), left)}
        return super().send(request, **settings)

    def _body(self, response: requests.Response, limit: int, *, whole: bool = True) -> bytes:
        """The body up to `limit` bytes; more is an error if it is wanted whole, else cut."""
        length = response.headers.get("Content-Length", "")
        parts: list[bytes] = []
        size = 0
        try:
            if whole and length.isdigit() and int(length) > limit:
                raise AnswerTooLargeError(f"an answer of {int(length):,} bytes is over the limit of {limit:,}")
            while size <= limit:
                # read1: what one packet brought. read() would wait for a full chunk, however slowly it drips.
                part = response.raw.read1(_CHUNK_BYTES, decode_content=True)
                if not part:
                    response.raw.release_conn()
                    return b"".join(parts)
                parts.append(part)
                size += len(part)
                if self.seconds_left <= 0.0:
                    raise requests.Timeout("the answer did not end in time")
        except (HTTPError, OSError) as error:
            if isinstance(error, requests.RequestException):
                raise
            if "timed out" in str(error).lower():
                raise requests.Timeout("the answer stopped in the middle") from error
            raise requests.ConnectionError("the connection broke in the middle of the answer") from error
        finally:
            response.close()  # a connection with an unread rest is of no use; a released one is not touched by this
        if whole:
            raise AnswerTooLargeError(f"an answer is over the limit of {limit:,} bytes")
        return b"".join(parts)[:limit]


def is_near(url: str) -> bool:
    """Whether a server is on this machine or a private network, by its address or an undotted name."""
    host = urlsplit(url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith((".local", ".lan", ".internal"))
    return address.is_private or address.is_loopback


def _no_credentials(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _refused(response: requests.Response, body: bytes) -> RefusedError:
    headers = response.headers
    return RefusedError(response.status_code, headers.get("Content-Type", ""), body, headers.get("Location", ""))
