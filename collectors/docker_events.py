"""The daemon's event stream: what is listened to, what becomes a stored event, and the thread that keeps listening.

Executions inside containers are not asked for at all: their messages carry the whole command line, and a health
check alone produces three of them every few seconds.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

from fleet.model import Event, Severity
from fleet.redaction import inert, redact_text
from fleet.tenancy import Tenancy, container_key

log = logging.getLogger(__name__)

#: Sent to the daemon as a filter; "health_status" there matches "health_status: unhealthy" too.
LISTENED = (
    "create", "start", "restart", "die", "oom", "kill", "stop", "destroy", "rename", "update", "pause", "unpause",
    "health_status",
)  # fmt: skip
_QUEUE_LIMIT = 20_000
_REMEMBERED = 20_000
_SILENT = frozenset({"update", "stop"})  # they tell us to look again; a person learns nothing from them

Stream = AbstractContextManager[Iterator[Mapping[str, object]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerMessage:
    """One message about a container. `at_nanoseconds` is the daemon's clock."""

    at_nanoseconds: int
    container_id: str
    action: str  # "health_status: unhealthy" is split: action and detail
    detail: str
    attributes: Mapping[str, str]

    @property
    def identity(self) -> str:
        """The same for the same event, however often the daemon replays it."""
        return f"{self.at_nanoseconds}:{self.container_id}:{self.action}:{self.detail}"


def parse_message(message: Mapping[str, object]) -> DockerMessage | None:
    """A message of the stream that we listen to, None for any other."""
    actor = message.get("Actor")
    if message.get("Type") != "container" or not isinstance(actor, Mapping):
        return None
    actor = cast("Mapping[str, object]", actor)
    action, _, detail = str(message.get("Action", "")).partition(":")
    container_id, nanoseconds = actor.get("ID"), message.get("timeNano")
    if action not in LISTENED or not isinstance(container_id, str) or not isinstance(nanoseconds, int):
        return None
    attributes = actor.get("Attributes")
    known: Mapping[str, object] = cast("Mapping[str, object]", attributes) if isinstance(attributes, Mapping) else {}
    return DockerMessage(
        at_nanoseconds=nanoseconds,
        container_id=container_id,
        action=action,
        detail=detail.strip() if action == "health_status" else "",
        attributes={key: value for key, value in known.items() if isinstance(value, str)},
    )


def event_row(message: DockerMessage, *, host: str, tenancy: Tenancy) -> Event | None:
    """The stored event of a message, None for those that only make us look again.

    Tenant and key come from the message itself (name, image and labels are in it), so the events of a container that
    lived only between two polls are complete too.
    """
    if message.action in _SILENT:
        return None
    name, image = message.attributes.get("name", ""), message.attributes.get("image", "")
    tenant = tenancy.resolve(name, image, message.attributes)
    shown = inert(redact_text(name), 256)
    kind, severity, title = _described(message, shown)
    stored = {"image": inert(redact_text(image), 256), "name": shown}
    for key, ours in (("exitCode", "exit_code"), ("signal", "signal"), ("oldName", "old_name")):
        if key in message.attributes:
            stored[ours] = inert(redact_text(message.attributes[key].removeprefix("/")), 256)
    return Event(
        at=time_of(message.at_nanoseconds),
        event_id=f"docker:{host}:{message.at_nanoseconds}:{message.container_id[:16]}:{kind}",
        host=host,
        tenant=tenant.tenant,
        container_key=container_key(host, name, message.attributes),
        container_id=inert(message.container_id, 64),
        source="docker",
        kind=kind,
        severity=severity,
        title=title,
        detail=inert(message.detail, 64),
        attributes=stored,
    )


def time_of(nanoseconds: int) -> datetime:
    """The daemon's time of an event as aware UTC, in microseconds."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    try:
        return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)


def _described(message: DockerMessage, name: str) -> tuple[str, Severity, str]:
    """Kind, severity and title. A death with an exit code other than 0 is a warning: 143 and 137 may be a stop."""
    match message.action:
        case "die":
            code = inert(message.attributes.get("exitCode", "?"), 16)
            return "die", "info" if code == "0" else "warning", f"{name} ended with exit code {code}"
        case "oom":
            return "oom", "critical", f"{name} ran out of memory; the kernel killed a process in it"
        case "health_status":
            status = inert(message.detail, 32)
            return "health_status", "warning" if status == "unhealthy" else "info", f"{name} is {status}"
        case "kill":
            return "kill", "info", f"{name} was sent signal {inert(message.attributes.get('signal', '?'), 16)}"
        case "rename":
            old = inert(redact_text(message.attributes.get("oldName", "?").removeprefix("/")), 256)
            return "rename", "info", f"{old} was renamed to {name}"
        case "create" | "destroy" as action:
            return action, "info", f"{name} was {'created' if action == 'create' else 'removed'}"
        case action:
            words = {"start": "started", "restart": "restarted", "pause": "paused", "unpause": "goes on"}
            return action, "info", f"{name} {'' if action == 'unpause' else 'was '}{words.get(action, action)}"


class EventListener:
    """A thread that listens, reconnects where it left off, and hands over each message once."""

    def __init__(
        self,
        open_stream: Callable[[int], Stream],
        *,
        name: str,
        foreign_errors: tuple[type[Exception], ...],
        retry_seconds: float = 1.0,
        longest_retry_seconds: float = 30.0,
        seed: int = 0,
    ) -> None:
        """open_stream(since) opens the stream after `since` (daemon's nanoseconds); it raises `foreign_errors`."""
        self._open_stream = open_stream
        self._foreign_errors = foreign_errors
        self._retry_seconds = retry_seconds
        self._longest_retry_seconds = longest_retry_seconds
        self._random = random.Random(seed)  # noqa: S311 - jitter, not secrecy
        self._lock = threading.Lock()
        self._queue: list[DockerMessage] = []
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._newest = 0
        self._lost = False
        self._missed = False
        self._opened = threading.Event()
        self._closed = threading.Event()
        self._close_stream: Callable[[], object] | None = None
        self._thread = threading.Thread(target=self._run, name=f"docker-events-{name}", daemon=True)
        self._name = name

    def start(self, since_nanoseconds: int) -> None:
        """Begin listening with the events after `since_nanoseconds` (the daemon remembers the last 256)."""
        self._newest = since_nanoseconds
        self._thread.start()

    @property
    def listening(self) -> bool:
        """The stream is open now."""
        return self._opened.is_set()

    def wait_listening(self, seconds: float) -> bool:
        """Wait for the stream to open, at most `seconds`; whether it did."""
        return self._opened.wait(seconds)

    def drain(self) -> tuple[list[DockerMessage], bool]:
        """Messages since the last call, oldest first; and whether some may have been missed (look at everything)."""
        with self._lock:
            messages, self._queue = self._queue, []
            lost, self._lost = self._lost, False
        messages.sort(key=lambda message: message.at_nanoseconds)
        return messages, lost

    def close(self) -> None:
        """Stop listening; waits at most a second for the thread."""
        self._closed.set()
        if (close := self._close_stream) is not None:
            with suppress(AttributeError, ValueError, *self._foreign_errors):  # it may be closing already
                close()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def _run(self) -> None:
        wait = self._retry_seconds
        while not self._closed.is_set():
            try:
                with self._open_stream(self._newest) as messages:
                    self._close_stream = getattr(messages, "close", None)
                    with self._lock:
                        self._lost = self._missed
                        self._missed = True  # from now on every opening follows a loss
                    self._opened.set()
                    log.info("docker events of %s: listening", self._name)
                    for message in messages:
                        self._accept(message)
                        wait = self._retry_seconds
                        if self._closed.is_set():
                            return
            except self._foreign_errors as error:
                if not self._closed.is_set() and self._opened.is_set():
                    log.warning("docker events of %s: stream lost (%s)", self._name, type(error).__name__)
            finally:
                self._opened.clear()
                self._close_stream = None
            self._closed.wait(wait * self._random.uniform(0.8, 1.2))
            wait = min(wait * 2, self._longest_retry_seconds)

    def _accept(self, raw: Mapping[str, object]) -> None:
        message = parse_message(raw)
        if message is None:
            return
        with self._lock:
            if message.identity in self._seen:
                return
            self._seen[message.identity] = None
            if len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
            self._newest = max(self._newest, message.at_nanoseconds)
            if len(self._queue) >= _QUEUE_LIMIT:
                self._queue.clear()
                self._lost = True
            self._queue.append(message)
