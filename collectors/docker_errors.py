"""Foreign failures of a daemon connection -> SourceError: what was found, and what a person should do now."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

import requests.exceptions
import urllib3.exceptions

from collectors.base import SourceError
from fleet.redaction import inert, redact_text

#: urllib3 counts a connection that could not be made among the timeouts, whatever the cause.
_TIMEOUTS = (TimeoutError, requests.exceptions.Timeout, urllib3.exceptions.TimeoutError)


def shown_url(url: str) -> str:
    """The url without what may be secret in it."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return inert(urlunsplit((parts.scheme, host, parts.path, "", "")), 200)


def plain_tcp_refusal(url: str) -> SourceError:
    """The one answer to a tcp daemon without TLS."""
    host = urlsplit(url).hostname or "host"
    return SourceError(
        "denied",
        f"{shown_url(url)} is plain tcp: whoever reaches that port is root on the host",
        f'use url = "ssh://user@{host}", or set tls_ca_file, tls_cert_file and tls_key_file, or allow_plain_tcp = true',
    )


def timeout_error(url: str, seconds: float) -> SourceError:
    """The daemon accepted the connection or not, but did not answer in time."""
    return SourceError(
        "timeout",
        f"the Docker daemon at {shown_url(url)} did not answer within {seconds:.3g} s",
        "look at the daemon on that host (systemctl status docker); it may hang or be overloaded",
    )


def source_error(error: BaseException, url: str, seconds: float) -> SourceError:
    """A failed call of the daemon as a SourceError; the message keeps no credential of the url."""
    if isinstance(error, SourceError):
        return error
    causes = tuple(_causes(error))
    where = shown_url(url)
    status = _status(causes)
    if status in {401, 403}:
        return SourceError(
            "denied", f"{where} refused the call with status {status}", "allow GET on it in the socket proxy in between"
        )
    if status in {404, 409}:
        return SourceError("gone", f"{where} does not know it any more", "nothing: it ended between two calls")
    if status is not None:
        return SourceError(
            "malformed",
            f"{where} answered with status {status}: {_words(error)}",
            "check that a Docker daemon answers at that address (docker -H <url> version)",
        )
    if any(isinstance(cause, PermissionError) for cause in causes):
        return SourceError(
            "denied",
            f"no permission to open {where}",
            "run the collector as root or in the docker group, or point it at a read-only socket proxy",
        )
    tls = next((cause for cause in causes if isinstance(cause, ssl.SSLError)), None)
    if tls is not None:  # a failed verification is a ValueError as well, so this comes first
        return SourceError(
            "unreachable",
            f"TLS with {where} failed: {_words(tls)}",
            "check tls_ca_file, tls_cert_file and tls_key_file against the daemon's certificate",
        )
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return SourceError(
            "unreachable",
            f"nothing listens at {where}",
            "start Docker there (systemctl status docker), or correct the url",
        )
    if any(isinstance(cause, _TIMEOUTS) and not isinstance(cause, urllib3.exceptions.NewConnectionError)
           for cause in causes):  # fmt: skip
        return timeout_error(url, seconds)
    if any(isinstance(cause, FileNotFoundError) for cause in causes):
        return SourceError(
            "unreachable", f"there is no {where}", "start Docker, or set docker.url to where its socket is"
        )
    if any(isinstance(cause, ValueError) for cause in causes):
        return SourceError(
            "malformed",
            f"{where} answered something else than the daemon's JSON",
            "check that a Docker daemon answers at that address (docker -H <url> version)",
        )
    return SourceError(
        "unreachable",
        f"no connection to {where}: {_words(error)}",
        "check that the daemon runs there (systemctl status docker) and that the way to it is open",
    )


def _status(causes: tuple[BaseException, ...]) -> int | None:
    for cause in causes:
        if isinstance(cause, requests.exceptions.HTTPError) and cause.response is not None:  # pyright: ignore[reportUnnecessaryComparison]
            return cause.response.status_code
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, what caused it, and the errors that requests and urllib3 carry as arguments."""
    waiting, seen = [error], set[int]()
    while waiting:
        cause = waiting.pop(0)
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        waiting += [
            item for item in (cause.__cause__, cause.__context__, *cause.args) if isinstance(item, BaseException)
        ]


def _words(error: BaseException) -> str:
    return inert(redact_text(str(error)), 200)
