"""What the tests of the Docker source share: the daemon, the source under test, and how its readings are looked at."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

from collectors.base import Reading
from collectors.sources.docker import DockerSource
from fleet.model import Event, Row

R = TypeVar("R", bound=Row)


def poll(source: DockerSource) -> Reading:
    return source.collect(datetime.now(UTC))


def rows(reading: Reading, kind: type[R]) -> dict[str, R]:
    """Rows of a kind by container name (key without its host)."""
    found = [row for row in reading.rows if isinstance(row, kind)]
    return {getattr(row, "container_key", "").partition(":")[2]: row for row in found}


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "condition not met in time"
        time.sleep(0.05)


def poll_until(
    source: DockerSource, condition: Callable[[list[Reading]], bool], seconds: float = 20.0
) -> list[Reading]:
    readings: list[Reading] = []

    def polled() -> bool:
        readings.append(poll(source))
        return condition(readings)

    until(polled, seconds)
    return readings


def events(readings: list[Reading], *names: str) -> list[Event]:
    """Events of these containers; the daemon also replays what other tests did within the hour."""
    keys = {f"h1:{name}" for name in names}
    found = [row for reading in readings for row in reading.rows if isinstance(row, Event)]
    return [event for event in found if event.container_key in keys]
