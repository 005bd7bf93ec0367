"""One thread between the sources and the store, so that a slow store never delays a poll.

Batches wait in memory for a short time only: the spooled writer behind it acknowledges them to disk when the store is
away. When even that blocks, the newest batches are refused and counted, and /healthz says so.

How polls went is a row each, in a table of its own. An insert costs the store as much for one row as for a hundred, so
the rows of polls that went well wait a moment for those of the other sources.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from collectors.outcome import guarded
from fleet.model import Batch, Row, SourceRun

log = logging.getLogger(__name__)
STUCK_AFTER_SECONDS = 60.0
DRAIN_INTERVAL_SECONDS = 5.0
#: States of a poll that nobody needs to see this very second.
QUIET = frozenset({"ok", "absent"})
#: Longer than the followers of a Docker poll start after it; shorter than any sensible interval.
RUNS_WAIT_SECONDS = 2.0


class Writer(Protocol):
    """Takes batches for good: to the store, or to disk while the store is away."""

    def append(self, batch: Batch) -> object:
        """Returns when the batch is safe, or given up and counted."""
        ...

    def drain(self) -> object:
        """Bring what waits on disk to the store, if it is back."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterHealth:
    """How the writing thread is doing. `stuck_seconds`: how long the running write has taken, 0 when idle."""

    alive: bool
    waiting_batches: int
    written_batches: int
    refused_batches: int
    lost_batches: int
    stuck_seconds: float
    last_written: float | None

    @property
    def stuck(self) -> bool:
        """Nothing gets through any more."""
        return not self.alive or self.stuck_seconds > STUCK_AFTER_SECONDS


class WritingThread:
    """Queue of at most `limit` batches and the thread that empties it."""

    def __init__(
        self,
        writer: Writer,
        *,
        limit: int = 512,
        monotonic: Callable[[], float] = time.monotonic,
        runs_wait_seconds: float = 0.0,
    ) -> None:
        """runs_wait_seconds: how long the row of a poll that went well may wait for others; 0 for not at all."""
        self._writer = writer
        self._limit = limit
        self._runs_wait_seconds = runs_wait_seconds
        self._runs: list[Row] = []
        self._runs_token = ""
        self._runs_due = 0.0
        self._monotonic = monotonic
        self._batches: deque[Batch] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._began: float | None = None
        self._last_written: float | None = None
        self._written = self._refused = self._lost = 0
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, batch: Batch) -> bool:
        """Hand over a batch without waiting; False when it had to be refused."""
        with self._changed:
            if self._stopping:
                return False
            if len(self._batches) >= self._limit:
                self._refused += 1
                if self._refused == 1:
                    log.error("writer has %d batches waiting, new ones are refused until it moves", self._limit)
                return False
            self._batches.append(batch)
            self._changed.notify()
            return True

    def stop(self, timeout_seconds: float) -> bool:
        """Write what waits, then end the thread; False when it did not end in time."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def health(self) -> WriterHealth:
        """A snapshot, from any thread."""
        with self._changed:
            return WriterHealth(
                alive=self._thread.is_alive(),
                waiting_batches=len(self._batches),
                written_batches=self._written,
                refused_batches=self._refused,
                lost_batches=self._lost,
                stuck_seconds=0.0 if self._began is None else self._monotonic() - self._began,
                last_written=self._last_written,
            )

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._batches and not self._stopping:
                    self._changed.wait(self._pause())
                if not self._batches and not self._runs and self._stopping:
                    return
                batch = self._next()
                if batch is None and self._runs:
                    continue  # woken early, or all it brought waits with the others
                self._began = self._monotonic()
            self._step(batch)

    def _pause(self) -> float:
        return max(0.0, self._runs_due - self._monotonic()) if self._runs else DRAIN_INTERVAL_SECONDS

    def _next(self) -> Batch | None:
        """What to write now; None when there is nothing, or nothing yet. The lock is held."""
        while self._batches:
            batch = self._without_runs(self._batches.popleft())
            if batch.rows:
                return batch
        if self._runs and (self._stopping or self._monotonic() >= self._runs_due):
            batch = Batch(token=f"{self._runs_token}/runs", rows=tuple(self._runs))
            self._runs.clear()
            return batch
        return None

    def _without_runs(self, batch: Batch) -> Batch:
        """The batch less the row of its poll, which waits: unless something went wrong, which is told at once."""
        waiting = [row for row in batch.rows if isinstance(row, SourceRun) and row.state in QUIET]
        if not waiting or not self._runs_wait_seconds:
            return batch
        if not self._runs:
            self._runs_token = batch.token
            self._runs_due = self._monotonic() + self._runs_wait_seconds
        self._runs.extend(waiting)
        rest = tuple(row for row in batch.rows if not (isinstance(row, SourceRun) and row.state in QUIET))
        return Batch(token=batch.token, rows=rest)

    def _step(self, batch: Batch | None) -> None:
        if batch is None:
            fault = guarded("spool", lambda: _ignore(self._writer.drain()))
        else:
            fault = guarded(f"writer, batch {batch.token}", lambda: _ignore(self._writer.append(batch)))
        with self._changed:
            self._began = None
            if batch is None:
                return
            if fault is None:
                self._written += 1
                self._last_written = self._monotonic()
            else:
                self._lost += 1


def _ignore(_: object) -> None:
    """What became of a batch is for the spool's own state and log."""
