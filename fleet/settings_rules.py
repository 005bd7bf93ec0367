"""What makes the value of a setting acceptable, and what to write when it is not.

A rule looks at one value of the right type and gives None, or (what is wrong with it, what to write instead).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit

from fleet.gpu_time import is_edge

Value = str | int | float | bool | tuple[str, ...]
Complaint = tuple[str, str]
Rule = Callable[[Value], Complaint | None]
HOST_NAME = re.compile(r"[A-Za-z0-9_.:\-]{1,253}")


def between(low: float, high: float) -> Rule:
    """A number within [low, high]."""

    def rule(value: Value) -> Complaint | None:
        if isinstance(value, int | float) and low <= value <= high:
            return None
        return f"not between {low:g} and {high:g}", f"a number from {low:g} to {high:g}"

    return rule


def at_least(low: float) -> Rule:
    """A number of at least `low`."""

    def rule(value: Value) -> Complaint | None:
        if isinstance(value, int | float) and low <= value < float("inf"):
            return None
        return f"less than {low:.0f}", f"a number of at least {low:.0f}"

    return rule


def one_of(*words: str) -> Rule:
    """One of a few words."""
    quoted = [f'"{word}"' for word in words]
    advice = f"{', '.join(quoted[:-1])} or {quoted[-1]}"

    def rule(value: Value) -> Complaint | None:
        return None if value in words else ("not a choice", advice)

    return rule


def positive(value: Value) -> Complaint | None:
    """A number above 0."""
    if isinstance(value, int | float) and 0 < value < float("inf"):
        return None
    return "not above 0", "a number above 0"


def activity_edge(value: Value) -> Complaint | None:
    """A share of activity on the edge of a stored bucket, so that history can be told by it."""
    if isinstance(value, int | float) and is_edge(float(value)):
        return None
    return "between two steps", "0 to 0.1 in steps of 0.01, or 0.1 to 1 in steps of 0.05"


def port(value: Value) -> Complaint | None:
    """A TCP port; 0 lets the system choose one."""
    if isinstance(value, int) and 0 <= value <= 65535:
        return None
    return "not a port", "a number from 1 to 65535"


def file_size(value: Value) -> Complaint | None:
    """A size on disk that holds at least a few batches."""
    if isinstance(value, int) and value >= 1_000_000:
        return None
    return "less than 1 MB", "a number of bytes of at least 1000000"


def host_name(value: Value) -> Complaint | None:
    """A host name or address, or nothing."""
    if value == "" or (isinstance(value, str) and HOST_NAME.fullmatch(value)):
        return None
    return "not a name", "letters, digits, dots, dashes, at most 253"


def regex(value: Value) -> Complaint | None:
    """A regular expression."""
    try:
        re.compile(str(value))
    except re.error as error:
        return f"not a regular expression ({error})", 'one that Python\'s re module accepts, for example "^acme-"'
    return None


def http_url(value: Value) -> Complaint | None:
    """An http(s) address without a password in it."""
    if not isinstance(value, str):  # pragma: no cover  # the parser has checked the type
        return "not text", "an address"
    if "://" not in value:
        return "no scheme", f'"http://{value or "127.0.0.1:9090"}"'
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError as error:
        return f"not an address ({error})", '"http://host:port"'
    if parts.scheme not in {"http", "https"}:
        return f'scheme "{parts.scheme}" is not http', f'"http://{parts.netloc}{parts.path}"'
    if not parts.hostname:
        return "no host", '"http://host:port"'
    if parts.password is not None:
        return (
            "a password in the address would be shown",
            "the address without it, username and password_file beside it",
        )
    if parts.query or parts.fragment:
        return "a query in the base address", f'"{parts.scheme}://{parts.netloc}{parts.path}"'
    return None


def store_dsn(value: Value) -> Complaint | None:
    """A DSN that `store.open_store` knows, or nothing."""
    if value == "":
        return None
    try:
        parts = urlsplit(str(value))
        _ = parts.port
    except ValueError as error:
        return f"not an address ({error})", '"clickhouse://user@host:8123/database"'
    if parts.scheme == "chdb":
        if parts.netloc or not parts.path.startswith("/"):
            return (
                "the folder is not absolute",
                f'"chdb:///{(parts.netloc + parts.path).lstrip("/")}" with the full path',
            )
        return None
    if parts.scheme not in {"clickhouse", "clickhouses"}:
        found = f'scheme "{parts.scheme}" is unknown' if parts.scheme else "no scheme"
        return found, '"chdb:///absolute/folder" or "clickhouse://user@host:8123/database"'
    return None if parts.hostname else ("no host", f'"{parts.scheme}://user@host:8123/database"')


def docker_url(url: str, *, has_tls: bool, allow_plain_tcp: bool) -> Complaint | None:
    """An address a Docker daemon can be reached at without handing root to the network."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        return f"not an address ({error})", '"unix:///var/run/docker.sock"'
    if parts.scheme == "unix":
        if parts.netloc or not parts.path.startswith("/"):
            return "the path is not absolute", f'"unix:///{(parts.netloc + parts.path).lstrip("/")}" with the full path'
        return None
    if parts.scheme == "ssh":
        return None if parts.hostname else ("no host", '"ssh://user@host"')
    if parts.scheme == "tcp":
        if not parts.hostname:
            return "no host", '"tcp://host:2376"'
        if has_tls or allow_plain_tcp:
            return None
        return (
            "plain tcp gives root on that host to everyone who reaches the port",
            f'"ssh://user@{parts.hostname}", or tls_ca_file, tls_cert_file and tls_key_file beside it, '
            "or allow_plain_tcp = true",
        )
    found = f'scheme "{parts.scheme}" is unknown' if parts.scheme else "no scheme"
    return found, '"unix:///var/run/docker.sock", "ssh://user@host" or "tcp://host:2376" with TLS'
