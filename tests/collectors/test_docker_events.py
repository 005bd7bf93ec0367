"""Messages of the daemon -> stored events, and the listener that reconnects without losing or doubling any."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from collectors.docker_events import EventListener, event_row, parse_message
from fleet.model import Event
from fleet.tenancy import Tenancy


def raw(action: str, at: int = 1795328015603961060, container: str = "ab" * 32, **attributes: str) -> dict[str, object]:
    known = {"image": "busybox:latest", "name": "web", **attributes}
    return {
        "Type": "container", "Action": action, "Actor": {"ID": container, "Attributes": known},
        "time": at // 10**9, "timeNano": at,
    }  # fmt: skip


def stored(action: str, **attributes: str) -> Event:
    message = parse_message(raw(action, **attributes))
    assert message is not None
    row = event_row(message, host="h", tenancy=Tenancy())
    assert row is not None
    return row


def test_a_death_keeps_its_exit_code_time_and_owner() -> None:
    row = stored("die", exitCode="7", tenant="acme", secret_token="x9")
    assert row.at == datetime(2026, 11, 22, 6, 13, 35, 603961, tzinfo=UTC)
    assert (row.kind, row.severity, row.title) == ("die", "warning", "web ended with exit code 7")
    assert row.attributes == {"image": "busybox:latest", "name": "web", "exit_code": "7"}
    assert (row.tenant, row.container_key) == ("acme", "h:web")
    assert row.event_id == f"docker:h:1795328015603961060:{'ab' * 8}:die"
    assert stored("die", exitCode="0").severity == "info"


@pytest.mark.parametrize(
    ("action", "attributes", "kind", "severity", "title"),
    [
        ("oom", {}, "oom", "critical", "web ran out of memory; the kernel killed a process in it"),
        ("health_status: unhealthy", {}, "health_status", "warning", "web is unhealthy"),
        ("health_status: healthy", {}, "health_status", "info", "web is healthy"),
        ("kill", {"signal": "15"}, "kill", "info", "web was sent signal 15"),
        ("rename", {"oldName": "/old"}, "rename", "info", "old was renamed to web"),
        ("start", {}, "start", "info", "web was started"),
        ("restart", {}, "restart", "info", "web was restarted"),
        ("create", {}, "create", "info", "web was created"),
        ("destroy", {}, "destroy", "info", "web was removed"),
        ("pause", {}, "pause", "info", "web was paused"),
        ("unpause", {}, "unpause", "info", "web goes on"),
    ],
)
def test_each_kind_is_told_in_words(
    action: str, attributes: dict[str, str], kind: str, severity: str, title: str
) -> None:
    row = stored(action, **attributes)
    assert (row.kind, row.severity, row.title) == (kind, severity, title)


def test_a_command_run_inside_a_container_is_never_taken_in() -> None:
    for action in ("exec_create: mysql -psecret", "exec_start: mysql -psecret", "exec_die", "top", "attach"):
        assert parse_message(raw(action)) is None


@pytest.mark.parametrize(
    "odd",
    [{}, {"Type": "image"}, {"Type": "container", "Action": "die"}, raw("die") | {"Actor": 5},
     raw("die") | {"timeNano": "x"}, raw("die") | {"Actor": {"ID": None}}],
)  # fmt: skip
def test_messages_of_another_shape_are_left_out(odd: Mapping[str, object]) -> None:
    assert parse_message(odd) is None


def test_an_event_at_an_absurd_time_does_no_harm() -> None:
    message = parse_message(raw("die", at=10**30))
    assert message is not None
    assert event_row(message, host="h", tenancy=Tenancy()) is not None


class Daemon:
    """Serves prepared streams, one after another, and notes from when each was asked for."""

    def __init__(self, *streams: Callable[[], Iterator[Mapping[str, object]]]) -> None:
        self.streams = list(streams)
        self.since: list[int] = []

    @contextmanager
    def open(self, since: int) -> Iterator[Iterator[Mapping[str, object]]]:
        self.since.append(since)
        if not self.streams:
            raise ConnectionRefusedError
        yield self.streams.pop(0)()


def listener(daemon: Daemon) -> EventListener:
    return EventListener(daemon.open, name="h", foreign_errors=(OSError,), retry_seconds=0.01)


def heard(listening: EventListener, count: int) -> tuple[list[str], list[bool]]:
    actions: list[str] = []
    lost: list[bool] = []
    end = time.monotonic() + 5
    while len(actions) < count and time.monotonic() < end:
        messages, missed = listening.drain()
        actions += [message.action for message in messages]
        lost.append(missed)
        time.sleep(0.005)
    return actions, lost


def test_a_stream_that_breaks_is_taken_up_where_it_ended_without_doubles() -> None:
    hold = threading.Event()

    def second() -> Iterator[Mapping[str, object]]:
        yield raw("start", at=20)  # the daemon replays the last second
        yield raw("die", at=30)
        hold.wait(5)

    daemon = Daemon(lambda: iter([raw("create", at=10), raw("start", at=20)]), second)
    listening = listener(daemon)
    listening.start(5)
    actions, lost = heard(listening, 3)
    assert actions == ["create", "start", "die"]
    assert any(lost)
    assert daemon.since[:2] == [5, 20]
    assert listening.listening
    hold.set()
    listening.close()


def test_the_first_opening_is_no_loss() -> None:
    hold = threading.Event()

    def stream() -> Iterator[Mapping[str, object]]:
        yield raw("start", at=20)
        hold.wait(5)

    listening = listener(Daemon(stream))
    listening.start(0)
    assert listening.wait_listening(5)
    actions, lost = heard(listening, 1)
    assert actions == ["start"]
    assert not any(lost)
    assert listening.drain() == ([], False)
    hold.set()
    listening.close()


def test_a_daemon_that_cannot_be_listened_to_is_tried_again_and_closing_does_not_wait() -> None:
    daemon = Daemon()
    listening = listener(daemon)
    listening.start(0)
    end = time.monotonic() + 5
    while len(daemon.since) < 3 and time.monotonic() < end:
        time.sleep(0.01)
    assert len(daemon.since) >= 3
    assert not listening.listening
    began = time.monotonic()
    listening.close()
    assert time.monotonic() - began < 1
