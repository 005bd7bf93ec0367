"""All sources together: one thread each, one watch for those that hang, one writer, hourly retention, a clean end.

Nothing here waits for a source: polls run in `collectors/loop.py`, writes in `collectors/writing.py`.
"""

from __future__ import annotations

import gc
import logging
import random
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from collectors.base import Source
from collectors.gathering import RUNS_WAIT_SECONDS, WATCHED_SECONDS
from collectors.loop import SourceHealth, SourceLoop
from collectors.outcome import guarded
from collectors.writing import Writer, WriterHealth, WritingThread

log = logging.getLogger(__name__)
#: NVML and Prometheus join to what Docker published, so Docker goes first in every cycle.
FOLLOWERS_DELAY_SECONDS = 1.0
RETENTION_INTERVAL_SECONDS = 3600.0
RETENTION_FIRST_SECONDS = 60.0
#: The parts of a stop; together they stay under the 10 s that Docker gives before it kills.
POLLS_END_SECONDS = 2.5
WRITER_END_SECONDS = 2.5
CLOSE_SECONDS = 1.5
#: New objects before Python looks for garbage among them. A poll of 1,000 endpoints makes 100,000 that hold no cycle
#: and die together; with Python's own 700 it walked them again and again, a tenth of the poll's CPU.
COLLECT_GARBAGE_AFTER = 50_000


def utc_now() -> datetime:
    """The wall clock, aware UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerHealth:
    """Everything that /healthz and /metrics tell."""

    uptime_seconds: float
    sources: tuple[SourceHealth, ...]
    writer: WriterHealth
    last_batch_seconds: float | None


class Runner:
    """Runs sources until stopped. `retention(now)` is called hourly on its own thread."""

    def __init__(
        self,
        sources: Sequence[Source],
        writer: Writer,
        *,
        rng: random.Random,
        retention: Callable[[datetime], object] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = utc_now,
        boot_id: str | None = None,
        runs_wait_seconds: float = RUNS_WAIT_SECONDS,
        unwatched_seconds: float = 0.0,
        watched_seconds: float = WATCHED_SECONDS,
    ) -> None:
        """unwatched_seconds: how long what was read may wait to be stored together while nobody looks; 0 = not at all.

        watched_seconds: how long a `look` counts.
        """
        self._monotonic = monotonic
        self._wall = wall
        self._retention = retention
        self._writing = WritingThread(
            writer,
            monotonic=monotonic,
            runs_wait_seconds=runs_wait_seconds,
            unwatched_seconds=unwatched_seconds,
            watched_seconds=watched_seconds,
        )
        self._sources = tuple(sources)
        self._began = monotonic()
        self._stopping = threading.Event()
        # Unique for each start: sequence numbers begin again at 0, and a token must never name two batches.
        boot_id = boot_id or uuid.uuid4().hex
        has_docker = any(source.kind == "docker" for source in sources)
        self._loops = tuple(
            SourceLoop(
                source,
                self._writing.put,
                boot_id=boot_id,
                rng=rng,
                monotonic=monotonic,
                wall=wall,
                delay_seconds=_delay(source, has_docker=has_docker),
            )
            for source in sources
        )
        self._watch = threading.Thread(target=self._watch_polls, name="watch", daemon=True)
        self._maintenance = threading.Thread(target=self._maintain, name="maintenance", daemon=True)

    def start(self) -> None:
        """Start every thread."""
        gc.set_threshold(COLLECT_GARBAGE_AFTER, *gc.get_threshold()[1:])
        self._writing.start()
        for loop in self._loops:
            loop.start()
        self._watch.start()
        if self._retention is not None:
            self._maintenance.start()

    def stop(self) -> bool:
        """End polls, write what waits, close the sources: within 7 s. False when something hung and was left behind."""
        self._stopping.set()
        for loop in self._loops:
            loop.stop()
        deadline = self._monotonic() + POLLS_END_SECONDS
        hung = [loop.name for loop in self._loops if not loop.join(max(0.0, deadline - self._monotonic()))]
        self._watch.join(0.5)
        written = self._writing.stop(WRITER_END_SECONDS)
        unclosed = self._close_sources()
        if hung:
            log.warning("left behind: %s did not return from a poll", ", ".join(hung))
        if unclosed:
            log.warning("left behind: %s did not close", ", ".join(unclosed))
        if not written:
            log.error("left behind: %d batches that the store did not take", self._writing.health().waiting_batches)
        return not hung and not unclosed and written

    def look(self) -> bool:
        """Somebody looks: see WritingThread.look."""
        return self._writing.look()

    def flush(self, wait_seconds: float) -> bool:
        """Store what was gathered; False when that took longer."""
        return self._writing.flush(wait_seconds)

    def health(self) -> RunnerHealth:
        """A snapshot, from any thread."""
        writer = self._writing.health()
        now = self._monotonic()
        return RunnerHealth(
            uptime_seconds=now - self._began,
            sources=tuple(loop.health() for loop in self._loops),
            writer=writer,
            last_batch_seconds=None if writer.last_written is None else now - writer.last_written,
        )

    def _watch_polls(self) -> None:
        shortest = min((source.timeout_seconds for source in self._sources), default=1.0)
        while not self._stopping.wait(min(0.5, shortest / 4)):
            for loop in self._loops:
                loop.check()

    def _maintain(self) -> None:
        retention = self._retention
        pause = RETENTION_FIRST_SECONDS
        while retention is not None and not self._stopping.wait(pause):
            guarded("retention", lambda: _ignore(retention(self._wall())))
            pause = RETENTION_INTERVAL_SECONDS

    def _close_sources(self) -> list[str]:
        """Close all at once, each on a thread of its own: the close of a hung source hangs too."""
        threads = [
            threading.Thread(
                target=guarded, args=(f"close of {loop.name}", loop.source.close), name=loop.name, daemon=True
            )
            for loop in self._loops
        ]
        for thread in threads:
            thread.start()
        deadline = self._monotonic() + CLOSE_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - self._monotonic()))
        return [thread.name for thread in threads if thread.is_alive()]


def _delay(source: Source, *, has_docker: bool) -> float:
    if source.kind == "docker" or not has_docker:
        return 0.0
    return min(FOLLOWERS_DELAY_SECONDS, source.interval_seconds / 5)


def _ignore(_: object) -> None:
    """What retention removed is for its own log."""
