"""What went wrong with a Prometheus, in words a person can act on. The only place that knows requests' exceptions."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from typing import cast
from urllib.parse import urlsplit

import requests

from collectors.base import SourceError
from collectors.prometheus_http import AnswerTooLargeError, CredentialsError, RefusedError
from collectors.prometheus_targets import clean_error
from fleet.model import Reason
from fleet.settings import PrometheusServer


def explain(error: Exception, server: PrometheusServer) -> SourceError:
    """The SourceError for anything that can go wrong in one request to `server`."""
    where = _shown(server.url)
    if isinstance(error, CredentialsError):
        return SourceError("denied", str(error), "give the collector's user read access to that file")
    if isinstance(error, AnswerTooLargeError):
        return SourceError(
            "malformed",
            f"{where}: {error}",
            "raise body_limit_bytes of this server, or drop series that are not needed in its scrape config",
        )
    if isinstance(error, RefusedError):
        return _refused(error, where)
    if isinstance(error, requests.Timeout):
        if isinstance(error, requests.ConnectTimeout):
            return SourceError("unreachable", f"{where} does not answer", "check the address, network and firewall")
        return SourceError(
            "timeout", f"{where} did not answer in time", "see whether it is overloaded, or raise timeout_seconds"
        )
    if isinstance(error, requests.exceptions.SSLError):
        return SourceError(
            "unreachable", f"{where}: TLS failed: {_cause(error)}", "set ca_file to the authority that signed it"
        )
    if isinstance(error, requests.exceptions.JSONDecodeError):
        return SourceError(
            "malformed", f"{where} answered something that is not JSON", "check that url is a Prometheus, with its path"
        )
    if isinstance(error, requests.ConnectionError):
        return SourceError("unreachable", f"{where}: {_cause(error)}", "check that it runs and that url is right")
    if isinstance(error, requests.RequestException):
        return SourceError("unreachable", f"{where}: {type(error).__name__}", "check url, ca_file and proxy settings")
    if isinstance(error, OSError):
        return SourceError(
            "denied", f"ca_file cannot be used: {clean_error(str(error))}", "set ca_file to a readable PEM file"
        )
    return SourceError(
        "malformed",
        f"{where} answered JSON that is not the query API's ({type(error).__name__})",
        "check that url is a Prometheus, with its path",
    )


def in_words(error: SourceError) -> str:
    """A failure as the short reason of one number: few distinct texts, as it is stored with every row."""
    return {"timeout": "no answer in time", "malformed": "unusable answer"}.get(error.reason, error.reason)


def _refused(error: RefusedError, where: str) -> SourceError:
    status = error.status
    said = _api_error(error)
    if status in (401, 403):
        return SourceError("denied", f"{where} answered {status}", "set token_file, or username and password_file")
    if 300 <= status < 400:
        target = _shown(error.location) if error.location else "elsewhere"
        return SourceError(
            "denied", f"{where} redirects to {target}", "use the address of the API itself, or log in with token_file"
        )
    if status == 404:
        return SourceError("unsupported", f"{where} answered 404", "check the path of url; it must lead to /api/v1")
    if status == 503 and "timeout" in said:
        return SourceError("timeout", f"{where}: {said}", "see whether it is overloaded, or raise timeout_seconds")
    reason: Reason = "unreachable" if status >= 500 else "malformed"
    return SourceError(reason, f"{where} answered {status}: {said}", "see that server's own log")


def _api_error(error: RefusedError) -> str:
    """What the API says is wrong; for anything else, what kind of thing answered."""
    try:
        body = json.loads(error.body)
    except ValueError:
        body = None
    if isinstance(body, dict):
        values = cast("Mapping[str, object]", body)
        return clean_error(f"{values.get('errorType', '')}: {values.get('error', '')}")
    return f"not the query API ({clean_error(error.content_type.partition(';')[0]) or 'no content type'})"


def _cause(error: BaseException) -> str:
    """The innermost reason of a chain of wrapped network errors, without addresses of ours."""
    words = ""
    seen: set[int] = set()
    current: object = error
    while isinstance(current, BaseException) and id(current) not in seen:
        seen.add(id(current))
        if isinstance(current, socket.gaierror):
            words = "its name cannot be resolved"
        elif isinstance(current, OSError) and current.strerror:
            words = current.strerror.lower() if not isinstance(current, requests.RequestException) else words
        inner = getattr(current, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next((arg for arg in current.args if isinstance(arg, BaseException)), None)
        current = inner or current.__cause__ or current.__context__
    return clean_error(words) or "the connection broke"


def _shown(url: str) -> str:
    """Scheme, host and path of an address: no user, no password, no query."""
    try:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
    except ValueError:
        return "an address that cannot be read"
